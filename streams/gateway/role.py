"""The role `gateway`: a client of the application, behind an HTTP server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from streams.app import App
from streams.backpressure.gate import GateCounts
from streams.broker.port import Broker
from streams.client.client import Client
from streams.errors import PrerequisiteMissing, SettingsError
from streams.gateway.settings import DEFAULT_PORT
from streams.observe.listen import address_of, is_loopback, listen
from streams.records.topics import Catalogue
from streams.settings import Settings

log = logging.getLogger(__name__)

SETTING = "STREAMS_GATEWAY"


class GatewayRole:
    """Serves HTTP until cancelled.

    Args:
        settings: All of them: it has a client of its own, with that one's settings.

    Attributes:
        address: `host:port` while it listens, empty otherwise.
        admissions: What backpressure decided about the invocations that came in here.

    Raises:
        SettingsError: The address is not only this machine's, and there is no token.
    """

    def __init__(self, app: App, broker: Broker, catalogue: Catalogue, settings: Settings) -> None:
        gateway = settings.gateway
        if not gateway.tokens and not is_loopback(gateway.host):
            raise SettingsError(
                f"the gateway does not listen on {gateway.host} without a token, since others may reach that; set "
                f'{SETTING}__TOKENS=\'[{{"tenant": "...", "token": "..."}}]\', or {SETTING}__HOST=127.0.0.1'
            )
        self.address = ""
        self._app = app
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._responses: Counter[tuple[str, int]] = Counter()
        self.admissions = GateCounts()

    @property
    def responses(self) -> Mapping[tuple[str, int], int]:
        """How many were given, by route and status."""
        return self._responses

    async def run(self) -> None:
        """Listen until cancelled; then take no more, and let requests under way end for a moment.

        Raises:
            PrerequisiteMissing: Starlette or uvicorn is not installed; names the extra.
            SettingsError: The port is in use, or the host is not an address of this machine.
            BrokerUnavailable: The log cannot be reached at the start. Later that is 503.
        """
        try:
            from streams.gateway.door import Door
            from streams.gateway.routes import Gateway
            from streams.gateway.server import serve
        except ModuleNotFoundError as error:
            raise PrerequisiteMissing(
                f"the gateway role needs {error.name}, which is not installed; install 'agent-streams[gateway]', or "
                "run the other roles without it"
            ) from error
        settings = self._settings.gateway
        port = DEFAULT_PORT if settings.port is None else settings.port
        with listen(settings.host, port, SETTING) as listener:
            async with Client(self._app, settings=self._settings, broker=self._broker) as client:
                most = self._catalogue.max_payload_bytes
                door = Door(settings.max_connections, settings.head_timeout_s)
                gateway = Gateway(self._app, client, settings, max_payload_bytes=most)
                self._responses, self.admissions = gateway.responses, client.admissions
                self.address = address_of(listener)
                log.info("gateway at http://%s/v1/invocations", self.address)
                try:
                    await serve(gateway.asgi(), listener, settings, door)
                finally:
                    self.address = ""
