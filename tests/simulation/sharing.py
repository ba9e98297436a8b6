"""Shared records in the simulation: who uses them, what they saw, and whether that can have happened.

Handlers note what they saw in their replies, clients in the world. What nobody saw the end of (its invocation failed,
its client died) may have happened; whether it did is taken from the log, and everything else is judged without it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from streams import Client, Context, VersionConflict
from streams.errors import BrokerError, ResultTimeout
from streams.records import decode_as
from streams.records.invocations import Result
from streams.records.state import StateDelta
from streams.records.versions import advance
from tests import linearizability as history
from tests.linearizability import Operation

if TYPE_CHECKING:
    from tests.simulation.plan import Plan
    from tests.simulation.world import World

NAME = "sim"
KEYS = ("x", "y", "z")
WHATS = ("read", "write", "blind", "delete", "update", "update", "update", "update")
CLIENT = "caller"

Seen = list[Any]
"""`shared`, what, key, token, start, end, status, value, version, expected; or `unfinished`, key, token."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What one client does to a shared record."""

    at_s: float
    what: str
    key: str
    token: str


def draw_sharing(plan: Plan, seed: int, span_s: float) -> None:
    """Let some worlds share records; the others stay as they were."""
    draw = Random(f"sharing {seed}")
    if draw.random() < 0.4:
        return
    keys = KEYS[: draw.randint(1, len(KEYS))]
    sites = 0
    for submission in plan.submissions:
        for block in _blocks(submission.program):
            for _ in range(draw.choice((0, 1, 1, 2))):
                sites += 1
                what, key = draw.choice(WHATS), draw.choice(keys)
                block.insert(draw.randint(0, len(block)), ["shared", what, key, f"h{sites}"])
    for number in range(draw.choice((0, 0, 3, 10))):
        call = Sharing(draw.random() * span_s * 1.5, draw.choice(WHATS), draw.choice(keys), f"client-{number}")
        plan.sharing.append(call)


def _blocks(program: list[Any]) -> Iterator[list[Any]]:
    """Yield a program and those within it, not those of children, which are other agents'."""
    yield program
    for operation in list(program):
        match operation:
            case ["gather" | "group" | "race", branches]:
                for branch in branches:
                    yield from _blocks(branch)
            case ["timeout" | "repeat", _, inner] | ["cleanup", inner, _]:
                yield from _blocks(inner)
            case ["child" | "start", _, _, inner]:
                yield inner


def mixed(token: str) -> Callable[[Any], int]:
    """Return the function of an update: what it makes names who made it, and of what."""
    return lambda value: crc32(token.encode(), value or 0)


async def share(ctx: Context[Any], seen: list[Any], known: dict[str, Any], what: str, key: str, token: str) -> None:
    """Do one operation in a handler, and note in *seen* what came of it."""
    records, start = ctx.shared(NAME, int), ctx.now().timestamp()
    # Until it has ended: it may be cancelled, or be left behind by a handler that returns.
    entry: Seen = ["unfinished", key, token]
    seen.append(entry)
    status, value, version, expected = await _operate(records, known, what, key, token)
    entry[:] = ["shared", what, key, token, start, ctx.now().timestamp(), status, value, version, expected]


async def _operate(
    records: Any, known: dict[str, Any], what: str, key: str, token: str
) -> tuple[str, int | None, int, int | None]:
    expected = None if what == "blind" else known.get(key, {})
    total = None if expected is None else sum(expected.values())
    try:
        if what in ("read", "update"):
            found = await (records.read(key) if what == "read" else records.update(key, mixed(token)))
            known[key] = found.version
            return "ok", found.value, sum(found.version.values()), None
        if what == "delete":
            known[key] = await records.delete(key, expected=expected)
        else:
            known[key] = await records.write(key, mixed(token)(None), expected=expected)
        return "ok", None, sum(known[key].values()), total
    except VersionConflict as error:
        known[key] = error.current
        return "conflict", None, sum(error.current.values()), total


async def call(world: World, client: Client, wanted: Sharing) -> None:
    """Do one operation as a client, and note in the world what came of it."""
    await asyncio.sleep(max(0.0, wanted.at_s - asyncio.get_running_loop().time()))
    if wanted.token in world.shared_begun:
        return
    world.shared_begun[wanted.token] = wanted.key
    start = world.now()
    try:
        done = await call_as_client(client, wanted.what, wanted.key, wanted.token)
    except (BrokerError, ResultTimeout):
        return
    # A process that is killed does not come here; one that is frozen does when it is thawed, and saw it then.
    del world.shared_begun[wanted.token]
    world.shared_begun[wanted.token] = ""
    world.shared_seen.append(["shared", wanted.what, wanted.key, wanted.token, start, world.now(), *done])


async def call_as_client(client: Client, what: str, key: str, token: str) -> tuple[str, int | None, int, int | None]:
    """Do one operation from outside; return status, value, version and the version that was expected."""
    records = client.shared(NAME, int, writer=CLIENT)
    known: dict[str, Any] = {}
    if what in ("write", "delete"):
        known[key] = (await records.read(key)).version
    return await _operate(records, known, what, key, token)


# -- judging -----------------------------------------------------------------------------------------------------------


def problems(world: World, originals: dict[str, list[Result]]) -> Iterator[str]:
    """Yield what is wrong with the shared records of a world."""
    deltas: dict[str, list[StateDelta]] = defaultdict(list)
    for delta in world.shared_deltas():
        deltas[delta.owner.rpartition("/")[2]].append(delta)
    seen, excused = _seen(world, originals)
    for key in sorted({*deltas, *(entry[2] for entry in seen)}):

        def untold(delta: StateDelta, key: str = key) -> bool:
            return (delta.invocation or CLIENT, key) in excused or _failed(world, originals, delta)

        yield from judge(key, [entry for entry in seen if entry[2] == key], deltas[key], untold, world.now())


def judge(
    key: str, seen: list[Seen], deltas: list[StateDelta], untold: Callable[[StateDelta], bool], now: float
) -> Iterator[str]:
    """Yield what is wrong with one record.

    Args:
        seen: What handlers and clients saw of it.
        deltas: All writes to it, in their order.
        untold: Whether it can be that nobody was told of a write.
        now: When everything was over.
    """
    yield from _chained(key, deltas)
    operations = [_operation(entry) for entry in seen]
    told = {entry[8] for entry in seen if entry[6] == "ok" and _wrote(entry)}
    for delta in deltas:
        number = sum(delta.vector.values())
        if number in told:
            continue
        if not untold(delta):
            yield f"write {number} of {key} by {delta.writer} ({delta.invocation}) was never told of"
        operations.append(_from_the_log(delta, number))
    if deltas:
        last = deltas[-1]
        value = None if last.deleted else int(last.value or b"0")
        operations.append(history.read("end", now, now, value, sum(last.vector.values())))
    if history.linearize(operations, history.NEW) is None:
        yield f"what was seen of {key} cannot have happened: {[entry[1:] for entry in seen]}"


def _seen(world: World, originals: dict[str, list[Result]]) -> tuple[list[Seen], set[tuple[str, str]]]:
    """Return what everybody saw, and which (invocation, key) may have writes that they did not see the end of."""
    from tests.simulation.application import Reply

    seen = list(world.shared_seen)
    excused = {(CLIENT, key) for key in world.shared_begun.values() if key}
    for identity, (result, *_) in originals.items():
        if result.status != "succeeded":
            continue
        for entry in Reply.model_validate_json(result.value or b"").seen:
            if isinstance(entry, list) and entry[:1] == ["shared"]:
                seen.append(entry)
            elif isinstance(entry, list) and entry[:1] == ["unfinished"]:
                excused.add((identity, entry[1]))
    return seen, excused


def _wrote(entry: Seen) -> bool:
    """Tell whether an operation that was applied has made a version; a delete of nothing has not."""
    return bool(entry[1] != "read" and not (entry[1] == "delete" and entry[8] == entry[9]))


def _failed(world: World, originals: dict[str, list[Result]], delta: StateDelta) -> bool:
    """Tell whether nobody could be told of a write: its invocation failed, or was restarted after it."""
    restarted = {target for _, action, target in world.plan.orders if action == "restart"}
    results = originals.get(delta.invocation, [])
    return delta.invocation in restarted or any(result.status != "succeeded" for result in results)


def _chained(key: str, deltas: list[StateDelta]) -> Iterator[str]:
    before: dict[str, int] = {}
    for delta in deltas:
        if delta.vector != advance(before, delta.writer):
            yield f"version {delta.vector} of {key} by {delta.writer} follows {before}"
        before = delta.vector


def _operation(entry: Seen) -> Operation:
    _, what, _, token, start, end, status, value, version, expected = entry
    name = f"{what} {token}"
    if status == "conflict":
        if what == "update":
            return Operation(name, start, end, lambda state: [state])  # gave up; what it met is not noted
        return history.conflict(name, start, end, expected, version)
    if what == "read":
        return history.read(name, start, end, value, version)
    if what == "update":
        return history.update(name, start, end, mixed(token), value, version)
    if what == "delete":
        gone = history.read(name, start, end, None, version)  # nothing was there
        done = history.write(name, start, end, None, expected, version)
        return Operation(name, start, end, lambda state: [*done.apply(state), *gone.apply(state)])
    return history.write(name, start, end, mixed(token)(None), expected, version)


def _from_the_log(delta: StateDelta, number: int) -> Operation:
    value = None if delta.deleted else int(delta.value or b"0")
    apply = history.write("", 0, 0, value, number - 1, number).apply
    return Operation(f"{delta.invocation} in the log", 0.0, history.NEVER, apply)


def shared_deltas_of(records: list[Any]) -> Iterator[StateDelta]:
    """Yield the writes to shared records among the state deltas."""
    for record in records:
        if record.value and (record.key or b"").startswith(b"shared/"):
            yield decode_as(StateDelta, record.value)
