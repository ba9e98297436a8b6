"""Following the results from outside: how much has come, and how long each shard has been silent after a fault."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right

from streams.broker.port import Broker, Partition
from streams.client.inbox import read_result
from streams.errors import BrokerError
from streams.records.topics import Catalogue

RETRY_S = 0.2


class Watch:
    """Follows the result topic, through outages.

    Attributes:
        answered: IDs that have a result.
    """

    def __init__(self, broker: Broker, catalogue: Catalogue) -> None:
        self.answered: set[str] = set()
        self._broker = broker
        self._positions = {Partition(catalogue.name("results"), n): 0 for n in range(catalogue.partitions)}
        self._written: dict[int, list[float]] = {n: [] for n in range(catalogue.partitions)}
        self._begun: dict[int, list[float]] = {n: [] for n in range(catalogue.partitions)}
        self._seen: dict[int, list[float]] = {n: [] for n in range(catalogue.partitions)}

    async def follow(self) -> None:
        """Read for ever."""
        while True:
            try:
                async with self._broker.reader() as reader:
                    await reader.assign(self._positions)
                    while True:
                        for source, records in (await reader.poll(max_records=1_000, timeout_s=0.5)).items():
                            self._positions[source] = records[-1].offset + 1
                            for record in records:
                                result = read_result(record)
                                if not result.repeated:
                                    self.answered.add(result.id)
                                    self._written[source.number].append(record.timestamp_ms / 1000)
                                    self._begun[source.number].append(result.started_at_ms / 1000)
                                    self._seen[source.number].append(time.time())
            except BrokerError:
                await asyncio.sleep(RETRY_S)

    def silence_s(self, since: float, *, anew: bool = False) -> float | None:
        """Return the time from *since* until the last shard had a result that was made after it; None if one has none.

        What was written before, and only read afterwards, does not count.

        Args:
            anew: Count only results of invocations that have begun after *since*: they took every role.
        """
        longest = 0.0
        for number, seen in self._seen.items():
            made = (self._begun if anew else self._written)[number]
            first = next((n for n in range(bisect_right(seen, since), len(seen)) if made[n] > since), None)
            if first is None:
                return None
            longest = max(longest, seen[first] - since)
        return longest

    async def resumed(self, since: float, *, within_s: float, anew: bool = False) -> float | None:
        """Wait until `silence_s` has an answer; None when it takes too long."""
        deadline = time.time() + within_s
        while (silent := self.silence_s(since, anew=anew)) is None:
            if time.time() > deadline:
                return None
            await asyncio.sleep(0.02)
        return silent
