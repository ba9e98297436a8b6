"""The gateway: HTTP for those who do not speak Kafka. Submit, results, signals, cancel.

A client of the log like any other (`streams.client`), with bearer tokens in front: shards decide, it translates. Hands
to the command line the `GatewayRole` (`role`). Only this room imports starlette and uvicorn; this module and
`settings` do not, so that settings stay cheap to read.
"""

from streams.gateway.settings import GatewaySettings, TokenSettings

__all__ = ["GatewaySettings", "TokenSettings"]
