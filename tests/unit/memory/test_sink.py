import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Self

import pytest

from streams.breakers import BreakerPolicy, Guard
from streams.broker.port import LogRecord, Message
from streams.errors import RecordTooLarge, StoreUnavailable
from streams.memory.decode import Batch, Refused, Row
from streams.memory.refusals import Contended, RowRefused
from streams.memory.sink import Abandoned, Sink, SinkCounts
from streams.records import decode_as, encode
from streams.records.control import DeadLetter
from streams.records.invocations import Result
from streams.records.state import StateDelta
from streams.testing.virtual_time import run


class Memory:
    """A store that takes what it is given, unless told otherwise."""

    def __init__(self, *, troubles: Sequence[Exception] = (), poison: str = "poison") -> None:
        self.rows: dict[str, int] = {}
        self.results: list[str] = []
        self.attempts = 0
        self._troubles = list(troubles)
        self._poison = poison

    async def write_state(self, deltas: Sequence[StateDelta]) -> int:
        self.attempts += 1
        if self._troubles:
            raise self._troubles.pop(0)
        if any(self._poison in delta.owner for delta in deltas):
            raise RowRefused("a byte that text cannot hold")
        self.rows.update({delta.owner: delta.sequence for delta in deltas})
        return len(deltas)

    async def write_invocations(self, results: Sequence[Result]) -> int:
        self.results += [result.id for result in results]
        return len(results)


class Letters:
    """A producer that keeps what it is given."""

    def __init__(self, limit_bytes: int = 10_000) -> None:
        self.kept: list[DeadLetter] = []
        self._limit_bytes = limit_bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, *messages: Message) -> tuple[int, ...]:
        for message in messages:
            if len(message.value or b"") > self._limit_bytes:
                raise RecordTooLarge("too large")
            self.kept.append(decode_as(DeadLetter, message.value or b""))
        return (0,) * len(messages)


def row(owner: str, sequence: int = 1) -> Row[StateDelta]:
    delta = StateDelta(owner, "note", b"1", 1, sequence, owner, 0)
    return Row(delta, LogRecord("ns.state-deltas", 0, sequence, 0, owner.encode(), encode(delta)))


def sink(store: Memory, letters: Letters, **policy: Any) -> Sink:
    def now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    random = Random(1)
    guard = Guard("postgres", BreakerPolicy(**policy), "sink", random.random)
    return Sink(
        store, letters, guard, SinkCounts(),
        dead_letters="ns.dead-letters", retry_ceiling_s=2.0, now_ms=now_ms, luck=random.random,
    )  # fmt: skip


def write(it: Sink, batch: Batch, wanted: Callable[[], bool] = lambda: True) -> float:
    """Write in virtual time; return how many seconds it took."""

    async def timed(work: Coroutine[Any, Any, None]) -> float:
        await work
        return asyncio.get_running_loop().time()

    return run(timed(it.write(batch, wanted)))


def test_only_the_newest_of_each_record_is_written_in_one_go():
    store = Memory()
    it = sink(store, Letters())
    write(it, Batch([row("a", 1), row("b", 7), row("a", 3), row("a", 2)]))
    assert store.rows == {"a": 3, "b": 7}
    assert (store.attempts, it.counts.read, it.counts.written) == (1, 4, 2)


def test_an_outage_is_waited_for_with_growing_pauses():
    store = Memory(troubles=[StoreUnavailable("away")] * 8)
    it = sink(store, Letters(), minimum_calls=50)
    seconds = write(it, Batch([row("a")]))
    assert store.rows == {"a": 1}
    assert it.counts.failures == 8
    assert 0.1 + 0.2 + 0.4 + 0.8 + 1.6 < 2 * seconds < 3 * (3.1 + 3 * 2.0) * 1.5


def test_an_open_breaker_spares_postgres_and_ends_with_a_probe():
    store = Memory(troubles=[StoreUnavailable("away")] * 3)
    it = sink(store, Letters(), window_calls=3, minimum_calls=3, open_s=30, jitter=0)
    seconds = write(it, Batch([row("a")]))
    assert seconds > 30
    assert store.attempts == 4


def test_contention_is_no_failure_of_the_dependency():
    store = Memory(troubles=[Contended("deadlock")] * 20)
    it = sink(store, Letters(), window_calls=3, minimum_calls=3)
    write(it, Batch([row("a")]))
    assert store.rows == {"a": 1}
    assert it.counts.failures == 0


def test_refused_rows_are_found_by_bisection_and_set_aside_with_bytes_and_reason():
    store, letters = Memory(), Letters()
    it = sink(store, letters)
    batch = Batch([row(f"agent-{n}", n) for n in range(64)] + [row("poison-1", 100), row("poison-2", 101)])
    write(it, batch)
    assert len(store.rows) == 64
    assert [letter.offset for letter in letters.kept] == [100, 101]
    assert letters.kept[0].value == encode(row("poison-1", 100).record)
    assert (letters.kept[0].reason, letters.kept[0].set_aside_by) == ("a byte that text cannot hold", "memory")
    assert store.attempts < 20
    assert it.counts.set_aside == 2


def test_what_could_not_be_decoded_is_set_aside():
    letters = Letters()
    source = LogRecord("ns.results", 2, 7, 5, b"k", b"junk", (("ce_type", b"x"),))
    write(sink(Memory(), letters), Batch(refused=[Refused(source, "CodecError", "not a record")]))
    (letter,) = letters.kept
    assert (letter.topic, letter.partition, letter.offset, letter.value) == ("ns.results", 2, 7, b"junk")
    assert letter.headers == {"ce_type": b"x"}


def test_a_record_too_large_for_dead_letters_leaves_its_origin_there():
    letters = Letters(limit_bytes=500)
    source = LogRecord("ns.results", 2, 7, 5, b"k", b"x" * 1000)
    write(sink(Memory(), letters), Batch(refused=[Refused(source, "CodecError", "not a record")]))
    (letter,) = letters.kept
    assert (letter.offset, letter.value) == (7, None)
    assert "too large for dead-letters" in letter.reason


def test_a_batch_whose_partitions_are_wanted_elsewhere_is_given_up():
    asked = iter([True, True, False])
    store = Memory(troubles=[StoreUnavailable("away")] * 100)
    with pytest.raises(Abandoned):
        write(sink(store, Letters()), Batch([row("a")]), lambda: next(asked))
    assert store.attempts == 2
