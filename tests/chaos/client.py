"""`python -m tests.chaos.client`: submits orders and waits for their results, until it is told to finish.

It may be killed at any point: its successor submits again, under the same keys, what it does not know to be accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from streams import Client
from streams.client.handle import Handle
from streams.errors import Backpressure, BrokerUnavailable, StreamsError
from tests.chaos.app import APPROVAL, app
from tests.chaos.diary import Diary
from tests.chaos.plan import idempotency_key, order

RETRY_S = 0.5
RESULT_TIMEOUT_S = 120.0


def numbers(diary: Diary, stop: Path) -> Iterator[int]:
    """Yield the orders to submit: what may not have arrived first, then new ones until the file *stop* appears."""
    started = diary.of("started")
    yield from sorted(started - diary.of("accepted"))
    for number in count(max(started, default=-1) + 1):
        if stop.exists():
            return
        yield number


async def submit(client: Client, seed: int, number: int) -> Handle[object]:
    """Submit an order, and approve it where that is needed, as often as it takes."""
    request = order(seed, number)
    while True:
        try:
            handle = await client.submit("shop", request, idempotency_key=idempotency_key(number), wait=True)
            if request.needs_approval:
                await handle.signal(APPROVAL, request.cents, signal_id=f"approval-{number}")
            return handle
        except (BrokerUnavailable, Backpressure) as error:
            print(f"order {number} again: {error}", flush=True)
            await asyncio.sleep(RETRY_S)


async def work(client: Client, diary: Diary, seed: int, waiting: Iterator[int], pause_s: float) -> None:
    """Settle one order after the other."""
    for number in waiting:
        diary.note("started", number)
        handle = await submit(client, seed, number)
        diary.note("accepted", number)
        try:
            result = await handle.result(timeout=RESULT_TIMEOUT_S)
        except StreamsError as error:
            print(f"order {number} has no result here: {type(error).__name__}: {error}", flush=True)
            diary.note("unanswered", number)
        else:
            if not result.succeeded:
                print(f"order {number}: {result.status} {result.error_type} {result.error_message}", flush=True)
            diary.note("answered", number)
        await asyncio.sleep(pause_s)


async def main(seed: int, workers: int, pause_s: float, diary_path: Path, stop: Path) -> None:
    """Run until told to finish and everything submitted here is answered."""
    diary = Diary(diary_path)
    waiting = numbers(diary, stop)
    async with Client(app) as client, asyncio.TaskGroup() as group:
        watcher = asyncio.create_task(_end_with_parent(os.getppid()))
        tasks = [group.create_task(work(client, diary, seed, waiting, pause_s)) for _ in range(workers)]
        await asyncio.wait(tasks)
        watcher.cancel()


async def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--pause-s", type=float, required=True)
    parser.add_argument("--diary", type=Path, required=True)
    parser.add_argument("--stop", type=Path, required=True)
    given = parser.parse_args()
    try:
        asyncio.run(main(given.seed, given.workers, given.pause_s, given.diary, given.stop))
    except* StreamsError as errors:
        sys.exit(f"client ends: {errors.exceptions[0]}")
