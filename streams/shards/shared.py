"""The shared records that a shard owns: requests are applied in the order in which they come, each of them once.

A write is applied only while the version that it expects is the record's, so nobody overwrites what he has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from streams.agents.shared import conflict_of
from streams.errors import InvalidInput, PayloadTooLarge
from streams.records import decode_as, encode, headers
from streams.records.ids import agent_of, check_part, shared_id
from streams.records.signals import Answer, SharedOutcome, SharedRequest
from streams.records.versions import missed
from streams.shards.effects import Write

if TYPE_CHECKING:
    from streams.shards.engine import Engine

RECORD = "value"
"""Name of the one record that a shared record consists of."""

OPERATIONS = ("read", "write", "delete")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request.

    Attributes:
        status: `ok`, `conflict` or `refused`.
        value: The record's afterwards, JSON; None where it does not exist.
        version: Likewise.
    """

    status: str
    value: bytes | None = None
    version: dict[str, int] = field(default_factory=dict)
    writers: tuple[str, ...] = ()
    others: int = 0
    message: str = ""


class SharedRecordsOwner:
    """Applies requests to the shared records of an engine's shard."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def on_request(self, request: SharedRequest) -> None:
        """Apply a request that has arrived, and answer it; one for another shard is sent on."""
        engine = self._engine
        try:
            owner = shared_id(request.name, request.key)
        except InvalidInput as error:
            self._reply(request, Verdict("refused", message=str(error)))
            return
        if (right := engine.partition_of(owner)) != engine.partition:
            engine.counters.forwarded += 1
            engine.outbox.add(request_write(request, right))
            return
        if request.operation != "read" and (answer := engine.applied.answer(request_name(request))) is not None:
            engine.counters.repeated += 1
            self._repeat(request, answer)
            return
        if engine.cold.defer(owner, request):
            return
        self._reply(request, self.apply(request))

    def apply(self, request: SharedRequest, *, once: bool = False) -> Verdict:
        """Apply a request to a record of this shard, as the next one of all.

        Args:
            once: It cannot come again: it is made in this very step.
        """
        engine = self._engine
        owner = shared_id(request.name, request.key)
        latest = engine.state.of(owner).get(RECORD)
        version = dict(latest.vector) if latest is not None else {}
        value = latest.value if latest is not None and not latest.deleted else None
        if request.operation == "read":
            return Verdict("ok", value, version)
        try:
            self._check(request, owner)
        except (InvalidInput, PayloadTooLarge) as error:
            return Verdict("refused", value, version, message=str(error))
        if not self._expected(request, version):
            engine.counters.shared_conflicts[request.name] = engine.counters.shared_conflicts.get(request.name, 0) + 1
            gone = missed(request.expected or {}, version)
            return Verdict("conflict", value, version, gone.writers, gone.others)
        if request.operation == "delete" and value is None:
            return Verdict("ok", None, version)
        written = None if request.operation == "delete" else request.value
        delta = engine.writes.write(owner, RECORD, written, writer=request.writer, invocation=request.origin)
        verdict = Verdict("ok", written, delta.vector)
        if not once:
            answer = encode(client_answer(request, verdict)) if request.client else b""
            engine.applied.note(request_name(request), answer)
        return verdict

    def _expected(self, request: SharedRequest, version: dict[str, int]) -> bool:
        if request.after and self._engine.applied.answer(request.after) is None:
            return False
        return request.expected is None or request.expected == version

    def _check(self, request: SharedRequest, owner: str) -> None:
        most = self._engine.limits.max_payload_bytes
        if request.operation not in OPERATIONS:
            raise InvalidInput(f"{request.operation!r} is not one of {', '.join(OPERATIONS)}")
        check_part("writer of a shared record", request.writer, slash=True)
        if request.operation == "write" and request.value is None:
            raise InvalidInput(f"a write of {owner} has no value; delete it instead")
        if len(request.value or b"") > most:
            raise PayloadTooLarge(owner, len(request.value or b""), most, "max_payload_bytes")

    def _repeat(self, request: SharedRequest, answer: bytes) -> None:
        if request.client:
            self._engine.outbox.answer(decode_as(Answer, answer))
            return
        # An agent's step has had its answer with the transaction that applied it, and waits no more.
        self._engine.counters.ignored += 1

    def _reply(self, request: SharedRequest, verdict: Verdict) -> None:
        if request.client:
            self._engine.outbox.answer(client_answer(request, verdict))
            return
        outcome = SharedOutcome(
            origin=request.origin,
            incarnation=request.incarnation,
            step=request.step,
            status=verdict.status,
            value=verdict.value,
            version=verdict.version,
            writers=verdict.writers,
            others=verdict.others,
            name=request.name,
            key=request.key,
            operation=request.operation,
            message=verdict.message,
        )
        agent = agent_of(request.origin)
        head = headers.internal("shared-outcome")
        partition = self._engine.partition_of(agent)
        self._engine.outbox.add(Write("inbox", agent.encode(), encode(outcome), partition, head))


def client_answer(request: SharedRequest, verdict: Verdict) -> Answer:
    """Return what a client is told: JSON of the version, with `read` also of the record, or of the conflict."""
    conflict = verdict.status == "conflict"
    shown = verdict.value if conflict or request.operation == "read" else None
    found = stored_json(shown, verdict.version, exists=verdict.value is not None)
    if conflict:
        found = (
            found[:-1]
            + b","
            + conflict_of(request.expected or {}, verdict.version, verdict.writers, verdict.others)[1:]
        )  # what the next try needs stands beside what is to be said
    return Answer(request.client, request.request_id, verdict.status, found, verdict.message)


def stored_json(value: bytes | None, version: dict[str, int], *, exists: bool) -> bytes:
    """Return the JSON of a record for a client."""
    shown = b"true" if exists else b"false"
    return b'{"value":%b,"version":%b,"exists":%b}' % (value or b"null", orjson.dumps(version), shown)


def request_name(request: SharedRequest) -> str:
    """Return what names a request wherever it comes a second time."""
    if request.client:
        return f"{request.client}\x00{request.request_id}"
    return f"{request.origin}#{request.incarnation}.{request.step}"


def request_write(request: SharedRequest, partition: int) -> Write:
    """Return the record that takes a request to the shard that owns its record."""
    owner = shared_id(request.name, request.key)
    return Write("inbox", owner.encode(), encode(request), partition, headers.internal("shared-request"))
