"""What runs inside a handler: the deterministic loop, the run over a journal, context, state, declared agents.

Pure: no Kafka, no clock, no randomness that is not derived from the invocation. Hands `Agent`, `Context`, `Log` and
`Budget` to users, and `Run` to the engine.
"""
