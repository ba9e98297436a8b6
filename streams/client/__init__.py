"""The client: submit, await results, signals.

Hands `Client` to users, the gateway and the command line.
"""
