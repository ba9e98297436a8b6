"""The two logs that the contract suite runs over, behind one face: a broker per process, topics with own names."""

from __future__ import annotations

import uuid
from random import Random
from typing import Protocol

from streams.broker import Broker, Partition, TopicSpec
from streams.broker.kafka import KafkaBroker, KafkaSettings
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.simulated.timing import Timing

REBALANCE_TIMEOUT_S = 1.0


class World(Protocol):
    """One log, reached by several processes."""

    def broker(self) -> Broker:
        """Connect as a process of its own."""
        ...

    def unreachable(self) -> Broker | None:
        """Return a broker whose address nobody listens on, where there are addresses."""
        ...

    async def close(self) -> None: ...


class KafkaWorld:
    def __init__(self, bootstrap_servers: str) -> None:
        self._settings = KafkaSettings(
            bootstrap_servers=bootstrap_servers,
            heartbeat_s=0.2,
            rebalance_timeout_s=REBALANCE_TIMEOUT_S,
        )
        self._brokers: list[KafkaBroker] = []

    def broker(self) -> Broker:
        broker = KafkaBroker(self._settings)
        self._brokers.append(broker)
        return broker

    def unreachable(self) -> Broker | None:
        return KafkaBroker(KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_s=1))

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.close()


class SimulatedWorld:
    def __init__(self) -> None:
        timing = Timing(
            latency_s=(0.0, 0.002),
            slow_every=0,
            heartbeat_s=0.05,
            session_timeout_s=1.0,
            rebalance_timeout_s=REBALANCE_TIMEOUT_S,
        )
        self.log = SimulatedLog(Random(0), timing=timing)
        self._made = 0

    def broker(self) -> Broker:
        self._made += 1
        return SimulatedBroker(self.log, f"process-{self._made}")

    def unreachable(self) -> Broker | None:
        return None

    async def close(self) -> None:
        pass


async def new_topic(broker: Broker, partitions: int = 1, **config: str) -> str:
    """Create a topic with a name that nobody else has; `_` in a setting's name stands for `.`."""
    name = f"contract-{uuid.uuid4().hex[:8]}"
    spec = TopicSpec(name, partitions, config={setting.replace("_", "."): value for setting, value in config.items()})
    await broker.admin.create_topics([spec])
    return name


def all_of(topic: str, partitions: int = 1) -> list[Partition]:
    return [Partition(topic, number) for number in range(partitions)]
