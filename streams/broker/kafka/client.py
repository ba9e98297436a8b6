"""What every part of the Kafka adapter shares: how a client of aiokafka is made and started, and what its errors mean.

Timeouts and retries of a first connection live here too, so that each caller gets `BrokerUnavailable` with the address
and the setting's name, whichever client could not connect.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.helpers import create_ssl_context

from streams.broker.kafka.settings import ADDRESS_SETTING, KafkaSettings
from streams.errors import BrokerError, BrokerUnavailable, RecordTooLarge, SettingsError, TopicError

# aiokafka is only partly typed; behind these names it is used untyped, and nothing of it leaves this folder.
_consumer_class: Any = AIOKafkaConsumer
_producer_class: Any = AIOKafkaProducer
_admin_class: Any = AIOKafkaAdminClient
_create_conn: Any = create_conn
_collect_hosts: Any = collect_hosts

# While a poll leaves records of some partitions in the buffer, aiokafka fetches nothing else from their broker for
# prefetch_backoff (100 ms), which would hold up step results behind invocations. Not a parameter of the consumer.
PREFETCH_BACKOFF_S = 0.005
# A partition that is resumed or drained during a long poll joins the next one, so this bounds its delay.
FETCH_MAX_WAIT_MS = 50
# Below the default max.message.bytes (1 MiB), because a broker's limit applies to a batch, not to its records.
BATCH_BYTES = 262_144
# How long a topic that was just created may be unknown to some brokers.
_SPREAD_S = 1.0


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings, and what is made from them once."""

    settings: KafkaSettings
    options: dict[str, Any]

    @classmethod
    def of(cls, settings: KafkaSettings) -> Connection:
        """Prepare connecting with *settings*; reads certificates, connects to nothing."""
        library_log = logging.getLogger("aiokafka")
        if library_log.level == logging.NOTSET:
            # It logs an error for every attempt; the adapter raises its own, once. Set a level to see them.
            library_log.setLevel(logging.CRITICAL + 1)
        options: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap_servers,
            "security_protocol": settings.security_protocol,
            "request_timeout_ms": round(settings.request_timeout_s * 1000),
        }
        if settings.security_protocol.startswith("SASL"):
            assert settings.sasl_password is not None
            options |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.sasl_username,
                "sasl_plain_password": settings.sasl_password.get_secret_value(),
            }
        if settings.security_protocol.endswith("SSL"):
            options["ssl_context"] = _ssl_context(settings)
        return cls(settings, options)

    @property
    def address(self) -> str:
        return self.settings.bootstrap_servers

    def consumer(self, role: str, **options: Any) -> Any:
        """Make a consumer, not started, without automatic commits or resets of positions."""
        return _consumer_class(
            **{
                **self.options,
                "client_id": f"{self.settings.client_id}-{role}",
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "fetch_max_wait_ms": FETCH_MAX_WAIT_MS,
                "max_partition_fetch_bytes": max(self.settings.max_request_bytes, 1_048_576),
                **options,
            }
        )

    def producer(self, role: str, **options: Any) -> Any:
        """Make a producer, not started, that waits for all replicas in sync."""
        compression = self.settings.compression
        return _producer_class(
            **{
                **self.options,
                "client_id": f"{self.settings.client_id}-{role}",
                "acks": "all",
                "compression_type": None if compression == "none" else compression,
                "max_request_size": self.settings.max_request_bytes,
                "max_batch_size": min(BATCH_BYTES, self.settings.max_request_bytes),
                "linger_ms": 0,
                **options,
            }
        )

    def admin(self) -> Any:
        return _admin_class(**self.options, client_id=f"{self.settings.client_id}-admin")

    async def start(self, make: Callable[[], Any], stop: str = "stop") -> Any:
        """Return a started client from *make*, trying again while no broker answers.

        Raises:
            BrokerUnavailable: None has answered within `connect_timeout_s`.
        """
        limit_s, backoff_s, reason = self.settings.connect_timeout_s, 0.05, "no answer"
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    client = make()
                    try:
                        await client.start()
                        # A consumer that is stopped before its tasks have begun leaves its connections open.
                        await asyncio.sleep(0)
                        return client
                    except BaseException as error:
                        await quietly(getattr(client, stop)(), 1.0)
                        if not isinstance(error, kafka_errors.KafkaConnectionError):
                            raise
                    reason = await self._reason()
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, 1.0)
        except TimeoutError as error:
            raise self.unavailable(f"did not answer within {limit_s:g} s ({reason})") from error
        except kafka_errors.KafkaError as error:
            raise self.translate(error, "connecting") from error

    async def _reason(self) -> str:
        """Return why no server lets us in. Clients of aiokafka only log it, and say "unable to bootstrap".

        Raises:
            KafkaError: The credentials were refused, which no further attempt changes.
        """
        options = {name: value for name, value in self.options.items() if name != "bootstrap_servers"}
        reason = "no address"
        for host, port, _ in _collect_hosts(self.address):
            try:
                connection = await _create_conn(host, port, client_id=self.settings.client_id, **options)
                connection.close()
                return "it answers now"
            except _REFUSED:
                raise
            except (OSError, kafka_errors.KafkaError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
        return reason

    @asynccontextmanager
    async def bounded(self, doing: str, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Bound what is done inside, and raise what goes wrong as errors of this package.

        Raises:
            BrokerUnavailable: It took longer than *timeout_s* (`request_timeout_s` by default).
        """
        limit_s = self.settings.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except BrokerError:
            raise
        except TimeoutError as error:
            raise self.unavailable(f"gave no answer within {limit_s:g} s ({doing})") from error
        except (kafka_errors.KafkaError, kafka_errors.IllegalOperation, kafka_errors.ConsumerStoppedError) as error:
            raise self.translate(error, doing) from error

    def unavailable(self, what: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"Kafka at {self.address} {what}; is it running, and is {ADDRESS_SETTING} right?")

    def translate(self, error: BaseException, doing: str) -> BrokerError:
        """Return the error of this package that *error* of aiokafka means, while *doing* something."""
        name = type(error).__name__
        text = str(error).removeprefix(f"{name}: ")  # aiokafka's own begin with it
        if isinstance(error, _UNAVAILABLE):
            return self.unavailable(f"failed while {doing} ({name})")
        if isinstance(error, kafka_errors.MessageSizeTooLargeError | kafka_errors.RecordListTooLargeError):
            return RecordTooLarge(
                f"a record exceeds the limit while {doing}: {text} "
                f"(STREAMS_KAFKA__MAX_REQUEST_BYTES is {self.settings.max_request_bytes}, or the topic's "
                "max.message.bytes is less); store the payload elsewhere and pass a reference"
            )
        if isinstance(error, kafka_errors.UnknownTopicOrPartitionError | kafka_errors.InvalidTopicError):
            return TopicError(f"a topic or partition does not exist at {self.address} while {doing}: {text}")
        if isinstance(error, _REFUSED):
            return BrokerError(
                f"Kafka at {self.address} refused this client while {doing} ({name}: {text}); check STREAMS_KAFKA__"
                "SASL_USERNAME and _SASL_PASSWORD, and the grants that `streams topics acls` prints"
            )
        return BrokerError(f"Kafka at {self.address} failed while {doing}: {name}: {text}")

    async def wait_for_topics(self, client: Any, topics: set[str]) -> None:
        """Wait until *client* knows the partitions of *topics*.

        Raises:
            TopicError: The brokers answer, but do not have one of them.
        """
        cluster = client.cluster
        deadline = asyncio.get_running_loop().time() + min(_SPREAD_S, self.settings.request_timeout_s)
        while missing := sorted(topic for topic in topics if cluster.partitions_for_topic(topic) is None):
            for topic in missing:
                client.add_topic(topic)
            # A topic that was just created is not known to every broker at once, so one answer is not enough.
            answered = await client.force_metadata_update()
            if asyncio.get_running_loop().time() > deadline:
                if not answered:
                    raise self.unavailable("does not answer")
                raise TopicError(
                    f"topic {missing[0]!r} does not exist at {self.address}; create it with `streams topics create`"
                )
            if any(cluster.partitions_for_topic(topic) is None for topic in missing):
                await asyncio.sleep(0.05)


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = create_ssl_context(
            cafile=settings.ssl_cafile,
            certfile=settings.ssl_certfile,
            keyfile=settings.ssl_keyfile,
            password=settings.ssl_password.get_secret_value() if settings.ssl_password else None,
        )
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(
            f"certificates for Kafka cannot be loaded ({error}): ssl_cafile {settings.ssl_cafile!r}, ssl_certfile "
            f"{settings.ssl_certfile!r}, ssl_keyfile {settings.ssl_keyfile!r} (STREAMS_KAFKA__SSL_CAFILE and so on)"
        ) from error
    context.check_hostname = settings.ssl_check_hostname
    return context


_UNAVAILABLE = (
    kafka_errors.KafkaConnectionError,
    kafka_errors.KafkaTimeoutError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.NoBrokersAvailable,
    kafka_errors.RequestTimedOutError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NotLeaderForPartitionError,
    kafka_errors.BrokerNotAvailableError,
    kafka_errors.GroupCoordinatorNotAvailableError,
    kafka_errors.NotEnoughReplicasError,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.StaleMetadata,
)

_REFUSED = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.AuthenticationMethodNotSupported,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
)


async def quietly(ending: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    """Await the end of a client that may be beyond answering; what goes wrong then is of no use to anyone."""
    # In a task of its own, because aiokafka may end with the cancellation of one of its tasks, which is not ours.
    task = asyncio.ensure_future(ending)
    try:
        await asyncio.wait([task], timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        elif not task.cancelled():
            task.exception()
