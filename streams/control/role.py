"""The control role: starts the Faust app inside the running event loop and ends with it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from streams.backpressure.stages import stages_of
from streams.breakers import BreakerSettings
from streams.broker.kafka.settings import KafkaSettings
from streams.broker.port import Broker
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.errors import BrokerUnavailable, PrerequisiteMissing, TopicError
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

_STOP_S = 10.0


class ControlRole:
    """Runs the control plane until it is cancelled.

    Args:
        broker: For everything that is written, and for offsets.
        kafka: For Faust's own consumer.
        breakers: Thresholds of every dependency.

    Attributes:
        plane: What decides, with its last `report` of the lag and its last `signals`.
        started: Faust has joined its group and reads.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        settings: ControlSettings,
        kafka: KafkaSettings,
        *,
        breakers: BreakerSettings | None = None,
    ) -> None:
        self._broker = broker
        self._catalogue = catalogue
        self._settings = settings
        self._kafka = kafka
        self.plane = ControlPlane(broker, catalogue, settings, breakers=breakers)
        self.started = False

    async def run(self) -> None:
        """Run until cancelled, then stop the app and let go of the desks.

        Raises:
            PrerequisiteMissing: Faust is not installed; names the extra.
            TopicError: A topic that it reads or writes does not exist.
            BrokerUnavailable: The log cannot be reached, or Faust has given up on it.
        """
        try:
            from streams.control.faust_app import faust_app
        except ModuleNotFoundError as error:
            raise PrerequisiteMissing(
                f"the control role needs Faust, and {error.name} is not installed; install 'agent-streams[control]', "
                "or run the other roles without it (--role shards --role tools ...)"
            ) from error
        await self._check_topics()
        # Faust wants a directory for tables, of which there are none, and would make one where the process runs.
        with TemporaryDirectory(prefix="streams-control-", ignore_cleanup_errors=True) as folder:
            app = faust_app(self._kafka, self._catalogue, self._settings, self.plane, Path(folder))
            try:
                await app.start()
                self.started = True
                await app.wait_until_stopped()
                raise BrokerUnavailable(f"Faust gave up on Kafka at {self._broker.address}: {app.crash_reason!r}")
            finally:
                await self._stop(app)

    async def _check_topics(self) -> None:
        names = {self._catalogue.name(kind) for kind in ("outcomes", "breakers", "backpressure")}
        names |= {stage.topic for stage in stages_of(self._catalogue)}
        if missing := names - (await self._broker.admin.describe(names, with_config=False)).keys():
            raise TopicError(
                f"{', '.join(sorted(missing))} do not exist at {self._broker.address}; run `streams topics create`"
            )

    async def _stop(self, app: object) -> None:
        try:
            async with asyncio.timeout(_STOP_S):
                await app.stop()  # type: ignore[attr-defined]
        except Exception as error:  # Faust raises what it likes when it stops without a broker
            log.warning("Faust did not stop cleanly: %r", error)
        await self.plane.close()
