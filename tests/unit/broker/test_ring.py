"""The order of transactions, with producers whose every step the test decides."""

import asyncio
from collections.abc import Sequence

import pytest

from streams.broker.port import Message
from streams.broker.ring import OrderedRing
from streams.errors import BrokerError, BrokerUnavailable, CommitAmbiguous, Fenced


class SteppedProducer:
    """Writes down what it does; each step waits until the test lets it through."""

    def __init__(self, name: str, history: list[str]) -> None:
        self.name = name
        self.history = history
        self.write_error: BrokerError | None = None
        self.commit_error: BrokerError | None = None
        self.writes = asyncio.Semaphore(1_000)
        self.commits = asyncio.Semaphore(1_000)

    async def start(self) -> None:
        self.history.append(f"start {self.name}")

    async def write(self, messages: Sequence[Message]) -> tuple[int, ...]:
        self.history.append(f"write {messages[0].value!r} by {self.name}")
        await self.writes.acquire()
        if self.write_error:
            raise self.write_error
        self.history.append(f"written {messages[0].value!r}")
        return (0,)

    async def commit(self) -> None:
        self.history.append(f"commit by {self.name}")
        await self.commits.acquire()
        if self.commit_error:
            raise self.commit_error
        self.history.append(f"committed by {self.name}")

    async def stop(self, timeout_s: float) -> None:
        self.history.append(f"stop {self.name}")


def message(number: int) -> list[Message]:
    return [Message("topic", b"k", b"%d" % number)]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def history() -> list[str]:
    return []


@pytest.fixture
def producers(history: list[str]) -> list[SteppedProducer]:
    return [SteppedProducer("A", history), SteppedProducer("B", history)]


async def test_the_next_transaction_is_written_while_the_one_before_commits(
    producers: list[SteppedProducer], history: list[str]
) -> None:
    ring = OrderedRing("ring", producers)
    producers[0].commits = asyncio.Semaphore(0)
    first, second = asyncio.create_task(ring.transact(message(1))), asyncio.create_task(ring.transact(message(2)))
    await settle()
    assert history == ["write b'1' by A", "written b'1'", "commit by A", "write b'2' by B", "written b'2'"]
    producers[0].commits.release()
    await asyncio.gather(first, second)
    assert history[5:] == ["committed by A", "commit by B", "committed by B"]


async def test_nothing_is_written_before_the_one_before_is_acknowledged(
    producers: list[SteppedProducer], history: list[str]
) -> None:
    ring = OrderedRing("ring", producers)
    producers[0].writes = asyncio.Semaphore(0)
    calls = [asyncio.create_task(ring.transact(message(n))) for n in range(3)]
    await settle()
    assert history == ["write b'0' by A"]
    producers[0].writes.release()
    producers[0].writes.release()
    await asyncio.gather(*calls)


@pytest.mark.parametrize("error", [Fenced("fenced"), BrokerUnavailable("away")])
async def test_after_a_failed_write_nothing_is_committed(
    producers: list[SteppedProducer], history: list[str], error: BrokerError
) -> None:
    ring = OrderedRing("ring", producers)
    producers[0].write_error = error
    calls = [asyncio.create_task(ring.transact(message(n))) for n in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [type(error)] * 3
    assert not any(line.startswith("commit") for line in history)


async def test_after_a_failed_commit_what_was_sent_early_is_not_committed(
    producers: list[SteppedProducer], history: list[str]
) -> None:
    ring = OrderedRing("ring", producers)
    producers[0].commit_error = CommitAmbiguous("who knows")
    producers[0].commits = asyncio.Semaphore(0)
    calls = [asyncio.create_task(ring.transact(message(n))) for n in range(2)]
    await settle()
    producers[0].commits.release()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [CommitAmbiguous, CommitAmbiguous]
    assert "written b'1'" in history
    assert "commit by B" not in history


async def test_cancelling_one_transaction_does_not_cancel_the_others_wait_but_ends_the_ring(
    producers: list[SteppedProducer],
) -> None:
    ring = OrderedRing("ring", producers)
    producers[0].commits = asyncio.Semaphore(0)
    first, second = asyncio.create_task(ring.transact(message(1))), asyncio.create_task(ring.transact(message(2)))
    await settle()
    second.cancel()
    await settle()
    producers[0].commits.release()
    assert await first == (0,)
    with pytest.raises(CommitAmbiguous, match="interrupted during its write"):
        await ring.transact(message(3))


async def test_start_starts_all_and_a_failure_stops_all(producers: list[SteppedProducer], history: list[str]) -> None:
    async def fail() -> None:
        raise BrokerUnavailable("away")

    producers[1].start = fail  # type: ignore[method-assign]
    ring = OrderedRing("ring", producers)
    with pytest.raises(BrokerUnavailable, match="away"):
        await ring.start()
    assert {"start A", "stop A", "stop B"} <= set(history)


def test_a_ring_needs_a_producer() -> None:
    with pytest.raises(ValueError, match="'ring' needs at least one producer"):
        OrderedRing("ring", [])
