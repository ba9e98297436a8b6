"""Driving the demo: publishes disputes, waits for their decisions, and counts on the result topic itself.

What was lost or answered twice is read from the topic, not from what this client happened to receive.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from streams import Client
from streams.broker.port import Broker, Partition
from streams.broker.table import read_to_end
from streams.client.inbox import read_result
from streams.demo.app import app, dispute
from streams.demo.bank_client import BankClient
from streams.demo.domain import Decision, Dispute
from streams.demo.oracle import Settled, judge
from streams.errors import BrokerUnavailable, StreamsError
from streams.records.invocations import Result
from streams.settings import Settings

RESULT_TIMEOUT_S = 120.0
SUBMIT_ATTEMPTS = 10


@dataclass(slots=True)
class Tally:
    """What happened to the disputes.

    Attributes:
        answered: Invocation ID to the result that its caller got.
        seconds: Submission to result, for those answered after the first.
        wrong: What the oracle found, in words.
    """

    submitted: dict[str, Dispute] = field(default_factory=dict)
    submitted_at: dict[str, float] = field(default_factory=dict)
    answered: dict[str, Result] = field(default_factory=dict)
    answered_at: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The demo's figures; field names are those of `--json`."""

    invocations: int
    succeeded: int
    degraded: int
    failed: int
    lost: int
    duplicates: int
    wrong: int
    p50_ms: float
    p99_ms: float
    per_s: float
    tokens: int

    @property
    def passed(self) -> bool:
        """Nothing was lost, answered twice or answered wrongly."""
        return self.lost == self.duplicates == self.wrong == self.failed == 0


async def drive(
    client: Client,
    disputes: Sequence[Dispute],
    *,
    concurrency: int,
    progress: Callable[[Tally], None],
    run_id: str,
) -> Tally:
    """Publish *disputes*, at most *concurrency* open at a time, and wait for all results.

    The first one goes alone, before the clock starts: it waits for the processes of the pipeline to come up.

    Args:
        progress: Told after each result.
        run_id: Prefix of the idempotency keys.
    """
    tally = Tally()
    waiting = iter(enumerate(disputes))
    number, first = next(waiting)
    await _settle(client, first, f"{run_id}-{number}", tally)
    progress(tally)
    tally.seconds.clear()
    started = time.perf_counter()

    async def work() -> None:
        for number, one in waiting:
            await _settle(client, one, f"{run_id}-{number}", tally)
            progress(tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(disputes))):
            group.create_task(work())
    tally.elapsed_s = time.perf_counter() - started
    return tally


async def _settle(client: Client, one: Dispute, key: str, tally: Tally) -> None:
    identity = f"{dispute.name}/{one.customer}/{key}"
    tally.submitted[identity] = one
    tally.submitted_at[identity] = time.time()
    began = time.perf_counter()
    for attempt in range(SUBMIT_ATTEMPTS):
        try:
            handle = await client.submit(dispute, one, idempotency_key=key, wait=True)
            break
        except BrokerUnavailable:
            if attempt == SUBMIT_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.5)  # the same key again: at worst it is the same invocation
    try:
        result = await handle.result(timeout=RESULT_TIMEOUT_S)
    except StreamsError:
        return  # counted as lost unless the topic has it
    tally.seconds.append(time.perf_counter() - began)
    tally.answered[identity] = result.record
    tally.answered_at[identity] = time.time()


async def count_results(broker: Broker, settings: Settings, tally: Tally) -> None:
    """Count the results of each submitted dispute on the result topic; repeats that are marked so do not count."""
    catalogue = settings.catalogue(app.name, dict(app.lanes()))
    topic = catalogue.name("results")
    count = (await broker.admin.describe([topic], with_config=False))[topic].partitions
    async for batch in read_to_end(broker, [Partition(topic, number) for number in range(count)]):
        for record in batch:
            result = read_result(record)
            if result.id in tally.submitted and not result.repeated:
                tally.results[result.id] += 1
                tally.answered.setdefault(result.id, result)


async def judge_decisions(bank_url: str, tally: Tally) -> None:
    """Let the oracle judge every decision against the bank's ledger."""
    settled = [
        Settled(
            identity,
            tally.submitted[identity],
            Decision.model_validate_json(result.value),
            result.degraded,
            tally.submitted_at[identity],
            tally.answered_at.get(identity, result.finished_at_ms / 1000),
        )
        for identity, result in tally.answered.items()
        if result.status == "succeeded" and result.value is not None
    ]
    async with BankClient(bank_url) as bank:
        ledger = await bank.ledger()
    tally.wrong = [f"{wrong.invocation_id}: {wrong.fault}: {wrong.detail}" for wrong in judge(ledger, settled)]


def report(tally: Tally) -> Report:
    """Return the figures of a run."""
    answered = tally.answered.values()
    tokens = sum(result.input_tokens + result.output_tokens for result in answered)
    return Report(
        invocations=len(tally.submitted),
        succeeded=sum(result.status == "succeeded" for result in answered),
        degraded=sum(result.degraded for result in answered),
        failed=sum(result.status != "succeeded" for result in answered),
        lost=len(tally.submitted) - len(tally.results),
        duplicates=sum(count - 1 for count in tally.results.values()),
        wrong=len(tally.wrong),
        p50_ms=_percentile_ms(tally.seconds, 0.50),
        p99_ms=_percentile_ms(tally.seconds, 0.99),
        per_s=round(len(tally.seconds) / tally.elapsed_s, 1) if tally.elapsed_s else 0.0,
        tokens=tokens,
    )


def _percentile_ms(seconds: list[float], share: float) -> float:
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)
