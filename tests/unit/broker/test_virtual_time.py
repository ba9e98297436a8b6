"""The event loop in virtual time: what asyncio promises, what a seed decides, and how processes end."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from streams.broker.simulated import Process
from streams.testing.virtual_time import Deadlock, LimitExceeded, VirtualLoop, run


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.sleep(86_400)
        return loop.time() - started

    real = time.monotonic()
    assert run(main()) == pytest.approx(86_400, abs=0.01)
    assert time.monotonic() - real < 1


def test_what_asyncio_offers_works() -> None:
    async def main() -> list[object]:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        event = asyncio.Event()
        done: list[object] = []

        async def produce() -> None:
            for number in range(3):
                await queue.put(number)
            event.set()

        async def consume() -> None:
            done.extend([await queue.get() for _ in range(3)])
            await event.wait()

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        except TimeoutError:
            done.append("timeout")
        done.append(await asyncio.gather(asyncio.sleep(2, "a"), asyncio.sleep(1, "b")))
        done.extend([await d for d in asyncio.as_completed([asyncio.sleep(2, "late"), asyncio.sleep(1, "early")])])
        return done

    assert run(main()) == [0, 1, 2, "timeout", ["a", "b"], "early", "late"]


def test_waiting_for_nothing_is_a_deadlock_that_names_who_waits() -> None:
    async def main() -> None:
        await asyncio.create_task(asyncio.Event().wait(), name="the one that waits")

    with pytest.raises(Deadlock, match=r"seed 7.*the one that waits"):
        run(main(), seed=7)


def test_steps_and_time_are_bounded() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def sleep() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(1_000)

    with pytest.raises(LimitExceeded, match="more than 1000 steps"):
        run(spin(), max_steps=1_000)
    with pytest.raises(LimitExceeded, match="more than 10000 virtual seconds"):
        run(sleep(), max_time_s=10_000)


def test_threads_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="no threads"):
        run(asyncio.to_thread(print))


async def interleaving() -> list[str]:
    history: list[str] = []

    async def work(name: str) -> None:
        for step in range(5):
            history.append(f"{name}{step}")
            await asyncio.sleep(0)

    await asyncio.gather(*(Process(name).spawn(work(name)) for name in "abc"))
    return history


def test_the_seed_decides_between_processes_and_nothing_else_does() -> None:
    histories = {seed: run(interleaving(), seed=seed) for seed in range(20)}
    assert len({tuple(history) for history in histories.values()}) > 15
    for seed, history in histories.items():
        assert run(interleaving(), seed=seed) == history


def test_within_a_process_the_first_comes_first() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        for number in range(10):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(0.1)
        return order

    assert run(main(), seed=3) == list(range(10))
    assert run(main(), seed=3, shuffle=True) != list(range(10))


_PROGRAM = """
import asyncio, hashlib
from random import Random
from streams.broker import Message, Partition, TopicSpec
from streams.broker.simulated import Process, SimulatedBroker, SimulatedLog
from streams.testing.virtual_time import VirtualLoop

loop = VirtualLoop(5)

async def main():
    log = SimulatedLog(loop.random)
    log.create_topics([TopicSpec("a", 3)])

    async def write(process):
        broker = SimulatedBroker(log, process)
        async with broker.producer() as producer:
            async def one(n):
                await producer.send(Message("a", b"%d" % n, process.name.encode()))
            try:
                async with asyncio.timeout(0.05), asyncio.TaskGroup() as group:
                    for n in range(30):
                        group.create_task(one(n))
            except TimeoutError:
                pass

    processes = [Process(f"p{n}") for n in range(5)]
    tasks = [p.spawn(write(p)) for p in processes]
    processes[0].kill_after(20)
    await asyncio.wait(tasks, timeout=10)
    return [(r.partition, r.key, r.value, r.timestamp_ms) for r in log.records("a")]

records = loop.run_until_complete(main())
loop.finish()
print(hashlib.sha256(repr((records, loop.fingerprint, loop.steps)).encode()).hexdigest())
"""


def test_histories_are_the_same_in_every_run_and_whatever_the_hash_seed() -> None:
    def digest(hash_seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert len({digest(seed) for seed in ("0", "1", "random")}) == 1


def test_a_killed_process_stops_at_once_and_never_runs_its_finally_blocks() -> None:
    history: list[str] = []

    async def work() -> None:
        try:
            while True:
                history.append("work")
                await asyncio.sleep(1)
        finally:
            history.append("finally")
            await asyncio.sleep(1)
            history.append("never")

    async def main() -> None:
        process = Process("victim")
        process.spawn(work())
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)
        assert history == ["work"] * 3

    run(main())
    assert "never" not in history


def test_a_fuse_kills_after_so_many_steps() -> None:
    def steps_before_death(fuse: int) -> int:
        history: list[int] = []

        async def work() -> None:
            for number in range(100):
                history.append(number)
                await asyncio.sleep(0.1)

        async def main() -> None:
            process = Process("victim")
            process.kill_after(fuse)
            process.spawn(work())
            await asyncio.sleep(60)

        run(main())
        return len(history)

    # Each sleep takes two callbacks: the timer's and the task's.
    assert [steps_before_death(fuse) for fuse in (1, 3, 5)] == [1, 2, 3]
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Process("p").kill_after(0)


def test_what_a_process_starts_belongs_to_it() -> None:
    history: list[str] = []

    async def child() -> None:
        await asyncio.sleep(5)
        history.append("child")

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async def main() -> None:
        process = Process("victim")
        process.spawn(parent())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(10)

    run(main())
    assert history == []


def test_a_frozen_process_goes_on_where_it_was_when_thawed() -> None:
    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), []

        async def work() -> None:
            for _ in range(4):
                await asyncio.sleep(1)
                seen.append(round(loop.time(), 1))

        process = Process("zombie")
        task = process.spawn(work())
        await asyncio.sleep(2.5)
        process.freeze()
        await asyncio.sleep(10)
        process.thaw()
        await task
        return seen

    assert run(main()) == [1.0, 2.0, 12.5, 13.5]


def test_what_hangs_after_the_end_is_cancelled_with_its_finally_blocks() -> None:
    history: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(1)
            history.append("cleaned up")

    async def main() -> None:
        Process("alive").spawn(linger())
        await asyncio.sleep(1)

    run(main())
    assert history == ["cleaned up"]


def test_an_inner_loop_stepped_from_a_callback_works() -> None:
    async def main() -> str:
        outer = asyncio.get_running_loop()
        inner = VirtualLoop(1)
        done: asyncio.Future[str] = outer.create_future()

        async def inside() -> str:
            await asyncio.sleep(5)
            return "inside"

        def step() -> None:
            asyncio._set_running_loop(None)
            try:
                done.set_result(inner.run_until_complete(inside()))
                inner.finish()
            finally:
                asyncio._set_running_loop(outer)

        outer.call_soon(step)
        return await done

    assert run(main()) == "inside"


def test_cancelled_timers_do_not_pile_up() -> None:
    loop = VirtualLoop()

    async def main() -> int:
        for _ in range(10_000):
            async with asyncio.timeout(1_000):
                await asyncio.sleep(0.001)
        return len(loop._timers)

    assert loop.run_until_complete(main()) < 300
    loop.finish()


def test_the_fingerprint_tells_histories_apart() -> None:
    def fingerprint(seed: int) -> int:
        loop = VirtualLoop(seed)
        loop.run_until_complete(interleaving())
        loop.finish()
        return loop.fingerprint

    assert fingerprint(1) == fingerprint(1)
    assert len({fingerprint(seed) for seed in range(20)}) > 15
