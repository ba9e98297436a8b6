"""Ownership when processes die for real: kill -9, restart in the same seat, a zombie that wakes up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from streams.broker import Message, Partition
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.broker.table import read_to_end
from streams.errors import OwnershipLost
from tests.integration.broker_worlds import new_topic

pytestmark = pytest.mark.kafka

# Joins, then writes one transaction after the other, each with the next number, and prints what was acknowledged.
_MEMBER = """
import asyncio, sys
from streams.broker import Message
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.errors import BrokerError

bootstrap, group, anchor, topic, instance = sys.argv[1:]

class Told:
    async def assigned(self, partitions): print("assigned", *sorted(partitions), flush=True)
    async def revoked(self, partitions): print("revoked", *sorted(partitions), flush=True)

async def main():
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    membership = broker.membership(group, anchor, instance_id=instance or None)
    await membership.start(Told())
    if not topic:
        await asyncio.sleep(3600)
    ring = broker.ring(topic)
    await ring.start()
    number = 0
    async def one(number):
        await ring.transact([Message(topic, b"k", b"%d" % number), Message(topic, b"k", b"%d" % number)])
        print("acknowledged", number, flush=True)
    pending = set()
    try:
        while True:
            pending.add(asyncio.ensure_future(one(number)))
            number += 1
            if len(pending) >= 2:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
    except BrokerError as error:
        print(type(error).__name__, flush=True)
        import os
        os._exit(1)

asyncio.run(main())
"""


class Told:
    async def assigned(self, partitions: frozenset[int]) -> None: ...
    async def revoked(self, partitions: frozenset[int]) -> None: ...


class Member:
    """A member in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @classmethod
    async def start(cls, *arguments: str) -> Member:
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", _MEMBER, *arguments, stdout=asyncio.subprocess.PIPE
            )
        )

    async def says(self, start: str, within_s: float = 20.0) -> str:
        """Read on until a line that begins with *start*."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            while line := (await self.process.stdout.readline()).decode().strip():
                self.lines.append(line)
                if line.startswith(start):
                    return line
        raise AssertionError(f"the member ended without saying {start!r}: {self.lines}")

    async def read_rest(self) -> None:
        assert self.process.stdout is not None
        self.lines += (await self.process.stdout.read()).decode().splitlines()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest.fixture
async def broker(kafka: str) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka))
    yield broker
    await broker.close()


async def until_owned(membership: object, count: int, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while len(membership.owned) != count:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_after_kill_9_the_others_have_the_partitions_within_the_session_timeout(
    broker: KafkaBroker, kafka: str
) -> None:
    anchor, group = await new_topic(broker, partitions=4), f"takeover-{uuid.uuid4().hex[:8]}"
    victim = await Member.start(kafka, group, anchor, "", "")
    try:
        await victim.says("assigned 0 1 2 3")
        membership = broker.membership(group, anchor)
        await membership.start(Told())
        await until_owned(membership, 2, 10)
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        await until_owned(membership, 4, 10)
        assert time.monotonic() - killed < 8
        await membership.confirm()
        await membership.leave()
    finally:
        await victim.end()


async def test_a_static_member_restarted_after_kill_9_has_its_partitions_back_at_once(
    broker: KafkaBroker, kafka: str
) -> None:
    anchor, group = await new_topic(broker, partitions=4), f"takeover-{uuid.uuid4().hex[:8]}"
    victim = await Member.start(kafka, group, anchor, "", "one")
    restarted: Member | None = None
    try:
        await victim.says("assigned 0 1 2 3")
        membership = broker.membership(group, anchor, instance_id="two")
        await membership.start(Told())
        await until_owned(membership, 2, 10)
        mine = membership.owned
        before = await victim.says("assigned")
        victim.signal(signal.SIGKILL)
        await victim.process.wait()
        restarted = await Member.start(kafka, group, anchor, "", "one")
        assert await restarted.says("assigned", within_s=5) == before
        await membership.confirm()
        assert membership.owned == mine
        await membership.leave()
    finally:
        await victim.end()
        if restarted is not None:
            await restarted.end()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_takeover_in_mid_stream_leaves_a_gapless_prefix_with_everything_acknowledged(
    broker: KafkaBroker, kafka: str, end: signal.Signals
) -> None:
    anchor, topic, group = await new_topic(broker), await new_topic(broker), f"takeover-{uuid.uuid4().hex[:8]}"
    victim = await Member.start(kafka, group, anchor, topic, "")
    try:
        await victim.says("acknowledged 50")
        victim.signal(end)
        ring = broker.ring(topic)
        started = time.monotonic()
        await ring.start()
        assert time.monotonic() - started < 3
        found = [r.value async for batch in read_to_end(broker, [Partition(topic, 0)]) for r in batch]
        await ring.transact([Message(topic, b"k", b"successor")])
        if end == signal.SIGSTOP:
            victim.signal(signal.SIGCONT)
            await asyncio.wait_for(victim.process.wait(), 20)
            await victim.read_rest()
            assert victim.lines[-1] in ("Fenced", "CommitAmbiguous")
        await victim.end()
        await victim.read_rest()
        acknowledged = [int(line.split()[1]) for line in victim.lines if line.startswith("acknowledged ")]
        expected = [b"%d" % number for number in range(len(found) // 2) for _ in range(2)]
        assert found == expected
        assert max(acknowledged) < len(found) // 2
        later = [r.value async for batch in read_to_end(broker, [Partition(topic, 0)]) for r in batch]
        assert later == [*found, b"successor"]
        await ring.close()
    finally:
        await victim.end()


async def test_a_member_that_stood_still_beyond_its_session_cannot_confirm(broker: KafkaBroker, kafka: str) -> None:
    anchor, group = await new_topic(broker, partitions=2), f"takeover-{uuid.uuid4().hex[:8]}"
    membership = broker.membership(group, anchor)
    await membership.start(Told())
    other = await Member.start(kafka, group, anchor, "", "")
    try:
        await until_owned(membership, 1, 10)
        time.sleep(7.5)  # noqa: ASYNC251 (the event loop stands still, as under SIGSTOP)
        with pytest.raises(OwnershipLost):
            await membership.confirm()
        await until_owned(membership, 1, 10)
        await membership.confirm()
        await membership.leave()
    finally:
        await other.end()
