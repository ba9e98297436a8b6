"""The payments demo: disputes that agents settle against accounts whose status changes while they work.

`domain` has the records and the rules, `accounts` the world they are about, `bank` serves it over HTTP, `oracle` judges
what the agents decided, and `provider` is the strict mock of an LLM endpoint that demo, tests and benchmarks call. It
hands those to `streams.demo.app` (the agent itself) and to tests.
"""
