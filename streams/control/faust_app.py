"""The Faust app that hosts the control plane: one agent over `outcomes`, two timers, and no decision of its own.

Every topic exists before it starts, and it declares none: a missing source topic would be created later by Kafka, and
Faust would consume nothing and say so once. Delivery is at least once, which is enough: digests are counted once by
reporter and sequence, and writes are fenced.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import faust
from faust.types.auth import SASLMechanism

from streams.broker.kafka.settings import KafkaSettings
from streams.control.plane import ControlPlane
from streams.control.settings import ControlSettings
from streams.records.topics import Catalogue


def faust_app(
    kafka: KafkaSettings, catalogue: Catalogue, settings: ControlSettings, plane: ControlPlane, folder: Path
) -> Any:
    """Return the app, not started. Make it inside the running event loop.

    Args:
        folder: Where Faust may make directories; nothing in them is needed again.
    """
    for library in ("faust", "mode"):
        # At INFO it tells every part of itself that starts or stops. Whoever set a level wants that.
        if logging.getLogger(library).level == logging.NOTSET:
            logging.getLogger(library).setLevel(logging.WARNING)
    app: Any = faust.App(
        f"{catalogue.namespace}-control",
        broker=[f"kafka://{address.strip()}" for address in kafka.bootstrap_servers.split(",")],
        broker_credentials=credentials(kafka),
        broker_client_id=f"{kafka.client_id}-control",
        broker_session_timeout=kafka.session_timeout_s,
        broker_heartbeat_interval=kafka.heartbeat_s,
        # Kept above the session timeout, as Kafka demands it of a request that may wait for a rebalance.
        broker_request_timeout=kafka.session_timeout_s + kafka.rebalance_timeout_s + kafka.request_timeout_s,
        broker_rebalance_timeout=kafka.rebalance_timeout_s,
        # From the beginning, so that an order that was given before the first start is followed. Old digests are
        # passed over by their age.
        consumer_auto_offset_reset="earliest",
        datadir=str(folder),
        value_serializer="raw",
        key_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        autodiscover=False,
    )
    outcomes = app.topic(catalogue.name("outcomes"), key_type=bytes, value_type=bytes)

    async def merge(stream: Any) -> None:
        async for event in stream.events():
            if event.value is not None:
                await plane.take(event.message.partition, event.value)

    async def tick() -> None:
        await plane.tick()

    async def sample() -> None:
        await plane.sample()

    # Only the new set counts. Between revocation and assignment this process may go on: whoever takes a partition over
    # fences it, and what it keeps it need not open again.
    async def follow(_app: Any, assigned: Any = frozenset(), **_: Any) -> None:
        await plane.assign(frozenset(source.partition for source in assigned if source.topic in outcomes.topics))

    app.agent(outcomes, name="merge-outcomes")(merge)
    app.timer(interval=settings.tick_s)(tick)
    app.timer(interval=settings.sample_s)(sample)
    app.on_partitions_assigned.connect(follow)
    app.follow_assignment = follow  # kept here, because Faust holds handlers of signals weakly
    return app


def credentials(kafka: KafkaSettings) -> Any:
    """Return Faust's credentials for the Kafka settings, None for a plain connection."""
    context = _ssl_context(kafka) if kafka.security_protocol.endswith("SSL") else None
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password is not None else None
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=password,
            ssl_context=context,
            mechanism=SASLMechanism(kafka.sasl_mechanism),
        )
    return faust.SSLCredentials(context) if context is not None else None


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=kafka.ssl_cafile)
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_certfile is not None:
        password = kafka.ssl_password.get_secret_value() if kafka.ssl_password is not None else None
        context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password)
    return context
