"""The gateway: HTTP for those who do not speak Kafka. Submit, results, signals, cancel.

A client of the log like any other (`streams.client`), with bearer tokens in front: shards decide, it translates. Hands
to the command line the `GatewayRole` (`role`). Needs the extra `gateway` (starlette, uvicorn) once the role runs; this
module, `settings` and `role` import neither.
"""

from streams.gateway.settings import GatewaySettings, TokenSettings

__all__ = ["GatewaySettings", "TokenSettings"]
