"""The client: submits invocations, waits for results, sends signals and asks shards."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Self, TypeVar, overload

import orjson
from pydantic import TypeAdapter

from streams.agents.agent import Agent
from streams.app import App
from streams.backpressure.gate import Gate, GateCounts
from streams.backpressure.waiting_line import WaitingLine
from streams.broker.connect import open_broker
from streams.broker.partitioning import partition_for
from streams.broker.port import Broker, Message, Partition, Producer
from streams.broker.table import Table
from streams.client.handle import Handle
from streams.client.inbox import Inbox
from streams.client.shared import RemoteRecords, RemoteState
from streams.client.token_follower import TokenFollower
from streams.encryption import protect_payloads
from streams.errors import (
    Backpressure,
    BrokerUnavailable,
    ConfigurationError,
    InvalidInput,
    PayloadTooLarge,
    ResultTimeout,
    TopicError,
)
from streams.records import encode, headers
from streams.records.control import BackpressureSignal
from streams.records.ids import agent_id as join_agent_id
from streams.records.ids import agent_of, input_digest, invocation_id, split_invocation_id
from streams.records.invocations import Invocation, Priority
from streams.records.signals import Answer, Order, StatusQuery
from streams.records.topics import Catalogue
from streams.settings import Settings, load_settings

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741

LANE = "invocations"
POSITION_POLL_S = 0.25
ASK_AGAIN_S = 2.0
SIGNALS_S = 3.0
"""Seconds to wait for what the control plane says about backpressure, when a client opens."""

log = logging.getLogger(__name__)


class Client:
    """Talks to an application from anywhere that reaches its Kafka.

    Args:
        app: The application, or its name where the code is not at hand.
        settings: By default from the environment and `streams.toml`.
        broker: A connection of one's own, for tests; by default made from the settings and closed with the client.

    Example:
        >>> async with Client(app) as client:                                          # doctest: +SKIP
        ...     handle = await client.submit(dispute, Dispute(customer="c-1", text="..."))
        ...     result = await handle.result(timeout=60)
        ...     print(result.value)
    """

    def __init__(
        self,
        app: App | str,
        *,
        settings: Settings | None = None,
        broker: Broker | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app = app if isinstance(app, App) else None
        self._settings = settings or load_settings()
        name = app if isinstance(app, str) else app.name
        self._catalogue: Catalogue = self._settings.catalogue(name)
        self._given = broker
        self._now = now
        self._id = f"client-{uuid.uuid4().hex[:12]}"
        client = self._settings.client
        self._gate = Gate(random.random, log.warning, unknown=client.without_signal)
        self._line = WaitingLine(
            LANE, self._check_gate, random.random, most=client.max_waiting, most_bytes=client.max_waiting_bytes
        )
        self._stack = AsyncExitStack()
        self._broker: Broker | None = None
        self._producer: Producer | None = None
        self._inbox: Inbox | None = None
        self._tokens: TokenFollower | None = None
        self._partitions = 0

    async def __aenter__(self) -> Self:
        """Connect, and follow results and backpressure.

        Raises:
            BrokerUnavailable: Kafka does not answer; names address and setting.
            TopicError: The namespace has no topics yet.
        """
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        protect_payloads(self._settings.encryption)
        broker = self._broker = self._given or open_broker(self._settings.kafka_for_payloads())
        if self._given is None:
            self._stack.push_async_callback(broker.close)
        await broker.connect()
        self._partitions, positions = await self._ends(broker)
        results = {p: o for p, o in positions.items() if p.topic == self._catalogue.name("results")}
        answers = {p: o for p, o in positions.items() if p.topic == self._catalogue.name("answers")}
        self._inbox = Inbox(broker, results, answers)
        tokens = self._catalogue.name("tokens")
        self._tokens = TokenFollower(broker, [Partition(tokens, number) for number in range(self._partitions)])
        self._stack.push_async_callback(self._tokens.aclose)
        self._producer = await self._stack.enter_async_context(broker.producer())
        signals = Table(broker, [Partition(self._catalogue.name("backpressure"), 0)])
        signals.on_record(lambda record: self._gate.put(record.key or b"", record.value))
        await self._stack.enter_async_context(signals)
        loaded = asyncio.ensure_future(signals.wait_loaded())
        await asyncio.wait((loaded,), timeout=SIGNALS_S)  # without signals it works too; it then says so once
        loaded.cancel()
        started = asyncio.Event()
        follower = asyncio.create_task(self._inbox.follow(started), name=f"inbox of {self._id}")
        self._stack.push_async_callback(_end, follower)
        waiter = asyncio.ensure_future(started.wait())
        await asyncio.wait((waiter, follower), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if follower.done():
            follower.result()

    @property
    def admissions(self) -> GateCounts:
        """What backpressure let this client publish, and what it did not."""
        return self._gate.counts

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _ends(self, broker: Broker) -> tuple[int, dict[Partition, int]]:
        names = [
            self._catalogue.name(kind) for kind in ("invocations", "results", "answers", "signals", "backpressure")
        ]
        found = await broker.admin.describe(names, with_config=False)
        missing = [name for name in names if name not in found]
        if missing:
            raise TopicError(
                f"topic {missing[0]} does not exist on {broker.address}; create the namespace with "
                "`streams topics create module:app`"
            )
        partitions = [Partition(name, n) for name in names[1:3] for n in range(found[name].partitions)]
        return found[names[0]].partitions, await broker.admin.end_offsets(partitions)

    # -- submitting ----------------------------------------------------------------------------------------------------

    @overload
    async def submit(
        self,
        agent: Agent[I, O],
        request: I,
        *,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        tenant: str = "",
        deadline: float | None = None,
        not_before: datetime | None = None,
        wait: bool = False,
        traceparent: str = "",
    ) -> Handle[O]: ...
    @overload
    async def submit(
        self,
        agent: str,
        request: Any,
        *,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        tenant: str = "",
        deadline: float | None = None,
        not_before: datetime | None = None,
        wait: bool = False,
        traceparent: str = "",
    ) -> Handle[Any]: ...
    async def submit(
        self,
        agent: Any,
        request: Any,
        *,
        idempotency_key: str | None = None,
        priority: Priority = "normal",
        tenant: str = "",
        deadline: float | None = None,
        not_before: datetime | None = None,
        wait: bool = False,
        traceparent: str = "",
    ) -> Handle[Any]:
        """Publish an invocation; returns once it is durable.

        Args:
            agent: The agent; or `name/key` (or only the name, where the app is at hand).
            request: Its input.
            idempotency_key: The same key with the same input is the same invocation; by default a fresh UUID.
            priority: `high`, `normal` or `low`.
            deadline: Seconds from now after which it is ended as failed; the setting's default is an hour.
            not_before: When its handler may start.
            wait: Wait in line while the lane is over its limit, instead of raising; high priorities leave it first.

        Raises:
            Backpressure: The lane is over its limit, or still was after `client.max_wait_s`; has `retry_after_s`.
            TooManyWaiting: With *wait*: as many wait in this client as may.
            InvalidInput: The input does not fit; names the field.
            PayloadTooLarge: With size and bound.
            BrokerUnavailable: It could not be published, or nobody knows; submit again with the same key.
        """
        name, key, data, adapter = self._encode(agent, request)
        limit = self._settings.max_payload_bytes
        if len(data) > limit:
            raise PayloadTooLarge(f"input of agent {name!r}", len(data), limit, "max_payload_bytes")
        if priority not in ("high", "normal", "low"):
            raise InvalidInput(f"priority {priority!r} is not one of high, normal, low")
        lifetime = self._settings.client.default_deadline_s if deadline is None else deadline
        if lifetime <= 0:
            raise InvalidInput(f"deadline of {lifetime} s is not in the future")
        identity = invocation_id(name, key, idempotency_key or uuid.uuid4().hex)
        await self._pass_gate(priority, len(data), wait=wait)
        now_ms = int(self._now() * 1000)
        invocation = Invocation(
            agent=name,
            key=key,
            idempotency_key=split_invocation_id(identity)[2],
            input=data,
            submitted_at_ms=now_ms,
            deadline_ms=now_ms + int(lifetime * 1000),
            not_before_ms=int(not_before.timestamp() * 1000) if not_before else 0,
            tenant=tenant,
            priority=priority,
            traceparent=traceparent,
        )
        handle = self._handle(identity, adapter, digest=input_digest(data), known=True)
        head = headers.public(
            "invocation",
            record_id=identity,
            source=self._id,
            content_type=headers.AVRO_TYPE,
            traceparent=traceparent,
            priority="" if priority == "normal" else priority,
        )
        await self._send("invocations", invocation.agent_id, encode(invocation), head)
        return handle

    def _encode(self, agent: Any, request: Any) -> tuple[str, str, bytes, TypeAdapter[Any] | None]:
        if isinstance(agent, str):
            name, _, key = agent.partition("/")
            if self._app is not None:
                agent = self._app.latest(name)
            else:
                if not key:
                    raise ConfigurationError(
                        f"agent {name!r} has no key; give 'name/key', or make the client with the app that declares it"
                    )
                return name, key, _to_json(request), None
        if not isinstance(agent, Agent):
            raise ConfigurationError(f"{agent!r} is not an agent; pass what @app.agent made, or 'name/key'")
        key, data = agent.encode_input(request)
        return agent.name, key, data, agent.output

    async def _pass_gate(self, priority: Priority, size_bytes: int, *, wait: bool) -> None:
        if wait and len(self._line):
            again_s: float | None = 0.0  # behind those who wait already
        else:
            again_s = self._check_gate(priority)
        if again_s is None:
            return
        if not wait:
            raise Backpressure(LANE, again_s)
        await self._line.wait(priority, size_bytes, self._settings.client.max_wait_s)

    def _check_gate(self, priority: str) -> float | None:
        return self._gate.check(LANE, priority, int(self._now() * 1000))

    @property
    def backpressure(self) -> BackpressureSignal | None:
        """What the control plane says about the lane, while that holds."""
        return self._gate.signal(LANE, int(self._now() * 1000))

    @property
    def waiting(self) -> int:
        """Submissions that wait in line for the lane."""
        return len(self._line)

    # -- looking -------------------------------------------------------------------------------------------------------

    def handle(self, invocation: str) -> Handle[Any]:
        """Attach to an invocation by its ID, submitted here or elsewhere, running or finished."""
        name, _, _ = split_invocation_id(invocation)
        adapter = None
        if self._app is not None and name in self._app.agents:
            adapter = self._app.latest(name).output
        return self._handle(invocation, adapter, digest=b"", known=False)

    def state(self, agent_id: str, *, writer: str = "") -> RemoteState:
        """Read and write the state of an agent instance from outside.

        Args:
            agent_id: `name/key`.
            writer: Who writes, as versions and conflicts name it; by default this client's random name.

        Raises:
            InvalidInput: It is no agent ID.
        """
        name, _, key = agent_id.partition("/")
        known = self._app is not None and name in self._app.agents
        shape = self._app.latest(name).state if self._app is not None and known else None
        limit = self._settings.client.query_timeout_s
        return RemoteState(
            join_agent_id(name, key), shape,
            ask=self._ask_owner, client=self._id, writer=writer or self._id, timeout_s=limit,
        )  # fmt: skip

    @overload
    def shared(self, name: str, *, writer: str = "") -> RemoteRecords[Any]: ...
    @overload
    def shared(self, name: str, kind: type[T], *, writer: str = "") -> RemoteRecords[T]: ...
    def shared(self, name: str, kind: Any = Any, *, writer: str = "") -> RemoteRecords[Any]:
        """Read and write shared records from outside.

        Args:
            kind: What every value must be.
            writer: Who writes, as versions and conflicts name it; by default this client's random name.
        """
        return RemoteRecords(name, kind, ask=self._ask_owner, client=self._id, writer=writer or self._id)

    async def order(self, action: str, target: str, *, reason: str, by: str, timeout: float | None = None) -> str:
        """Give an operator's order and return the shard's answer.

        Args:
            action: `resume`, `restart` or `fail` with an invocation ID; `pause` or `unpause` with an agent name;
                `erase` with an agent ID, or the `shared/name/key` of a shared record.
            reason: Kept with the order.
            by: Who gives it.

        Raises:
            InvalidInput: The shard refuses it, with its reason.
            ResultTimeout: A shard does not answer.
        """
        everywhere = action in ("pause", "unpause")
        numbers: Sequence[int]
        if everywhere:
            numbers = range(self._partitions)
        elif action == "erase":
            numbers = [partition_for(target.encode(), self._partitions)]
        else:
            numbers = [self._partition_of(target)]
        answers = []
        for number in numbers:
            order = Order(action, target, reason, by, int(self._now() * 1000), self._id, uuid.uuid4().hex)
            answers.append(await self._ask(order, order.request_id, "order", number, target, timeout))
        refused = [answer for answer in answers if answer.status != "ok"]
        if refused:
            raise InvalidInput(refused[0].message)
        return answers[0].message

    # -- inside --------------------------------------------------------------------------------------------------------

    def _handle(self, identity: str, adapter: TypeAdapter[Any] | None, *, digest: bytes, known: bool) -> Handle[Any]:
        inbox = self._connected(self._inbox)
        number = self._partition_of(identity)

        async def ask(query: StatusQuery) -> Answer:
            return await self._ask(query, query.request_id, "status-query", number, identity, None)

        async def tell(record: Any, kind: str) -> None:
            await self._send("signals", agent_of(identity), encode(record), headers.internal(kind), number)

        return Handle(
            identity,
            inbox.slot(identity, digest),
            ask=ask,
            tell=tell,
            client=self._id,
            adapter=adapter,
            known=known,
            caught_up=lambda: self._caught_up(number),
            pieces=lambda: self._connected(self._tokens).follow(identity),
        )

    async def _caught_up(self, number: int) -> bool:
        """Wait, within the query timeout, until a shard has read every invocation that is on the log now."""
        admin = self._connected(self._broker).admin
        source = Partition(self._catalogue.name("invocations"), number)
        end = (await admin.end_offsets([source]))[source]
        deadline = self._now() + self._settings.client.query_timeout_s
        while (await admin.group_offsets(f"{self._catalogue.namespace}-shards", [source])).get(source, 0) < end:
            if self._now() >= deadline:
                return False
            await asyncio.sleep(POSITION_POLL_S)
        return True

    async def _ask(
        self, record: Any, request_id: str, kind: str, number: int, target: str, timeout: float | None
    ) -> Answer:
        inbox = self._connected(self._inbox)
        limit = timeout or self._settings.client.query_timeout_s
        future = inbox.question(request_id)
        try:
            async with asyncio.timeout(limit):
                await self._send("signals", target, encode(record), headers.internal(kind), number)
                answer: Answer = await future
                return answer
        except TimeoutError:
            raise ResultTimeout(
                f"shard {number} did not answer about {target} within {limit:g} s; is a process with --role shards up?"
            ) from None
        finally:
            inbox.forget(request_id)

    async def _ask_owner(self, record: Any, request_id: str, owner: str, timeout: float | None) -> Answer:
        """Ask the shard that owns an agent instance or a shared record; again and again, for it applies it once."""
        number = partition_for(owner.encode(), self._partitions)
        limit = timeout or self._settings.client.query_timeout_s
        future = self._connected(self._inbox).question(request_id)
        try:
            async with asyncio.timeout(limit):
                while True:
                    try:
                        await self._send("signals", owner, encode(record), headers.internal("state-request"), number)
                    except BrokerUnavailable as error:
                        log.warning("%s: %s; trying again", owner, error)
                    await asyncio.wait((future,), timeout=ASK_AGAIN_S)
                    if future.done():
                        answer: Answer = future.result()
                        return answer
        except TimeoutError:
            raise ResultTimeout(
                f"shard {number} did not answer about {owner} within {limit:g} s, and a write may have been applied; "
                "is a process with --role shards up?"
            ) from None
        finally:
            self._connected(self._inbox).forget(request_id)

    def _partition_of(self, identity: str) -> int:
        return partition_for(agent_of(f"{identity}/").encode(), self._partitions)

    async def _send(self, kind: str, key: str, value: bytes, head: headers.Headers, number: int | None = None) -> None:
        partition = partition_for(key.encode(), self._partitions) if number is None else number
        message = Message(self._catalogue.name(kind), key.encode(), value, partition, head)
        await self._connected(self._producer).send(message)

    def _connected(self, part: Any) -> Any:
        if part is None:
            raise ConfigurationError("the client is not connected; use it as `async with Client(app) as client:`")
        return part


def _to_json(value: Any) -> bytes:
    return value.model_dump_json().encode() if hasattr(value, "model_dump_json") else orjson.dumps(value)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
