"""Roles of an app running in this process on a real Kafka, for tests that look at them from outside."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from streams import App, Client, Settings, load_settings
from streams.broker.connect import open_broker
from streams.broker.port import Broker
from streams.broker.topics import create_namespace
from streams.llm.providers import Provider
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.memory.cold import PostgresSource
from streams.memory.role import MemoryRole
from streams.memory.settings import MemorySettings
from streams.records.topics import Catalogue
from streams.shards.role import ShardRole
from streams.tools.role import ToolRole


@dataclass(frozen=True)
class Running:
    app: App
    settings: Settings
    broker: Broker
    catalogue: Catalogue
    client: Client
    shards: ShardRole

    def topic(self, kind: str) -> str:
        return self.catalogue.name(kind)


@asynccontextmanager
async def running(
    app: App,
    kafka: str,
    *,
    roles: Collection[str] = ("shards", "tools"),
    models: Mapping[str, Provider] | None = None,
    dsn: str = "",
    **overrides: Any,
) -> AsyncIterator[Running]:
    """Yield the app at work under a namespace of its own, which is deleted in the end.

    With *models* it has a dispatcher for them, with *dsn* a memory sink, and shards that read evicted state back.
    """
    namespace = f"{app.name}-{uuid.uuid4().hex[:8]}"
    settings = load_settings(namespace=namespace, kafka={"bootstrap_servers": kafka}, **overrides)
    broker = open_broker(settings.kafka_for_payloads())
    catalogue = settings.catalogue(app.name, dict(app.lanes()))
    try:
        await create_namespace(broker.admin, catalogue, 1)
        memory = MemorySettings(dsn=SecretStr(dsn), flush_interval_s=0.02, retry_ceiling_s=0.5)
        sources = (PostgresSource(memory, namespace),) if dsn else ()
        shards = ShardRole(app, broker, catalogue, settings.shards, sources=sources)
        tools = ToolRole(app, broker, catalogue, settings.tools)
        tasks = [
            asyncio.create_task(role.run()) for name, role in (("shards", shards), ("tools", tools)) if name in roles
        ]
        if dsn:
            tasks.append(asyncio.create_task(MemoryRole(broker, catalogue, memory).run()))
        if models:
            pools = LlmSettings(pools={name: PoolSettings(model=name) for name in models})
            tasks.append(asyncio.create_task(LlmRole(app, broker, catalogue, pools, providers=models).run()))
        try:
            if "shards" in roles:
                await until(lambda: all_ready(shards, catalogue.partitions), "the shards are restored")
            async with Client(app, settings=settings) as client:
                yield Running(app, settings, broker, catalogue, client, shards)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        names = [name for name in await broker.admin.list_topics() if name.startswith(f"{namespace}.")]
        await broker.admin.delete_topics(names)
        await broker.close()


def all_ready(shards: ShardRole, partitions: int) -> bool:
    return len(shards.processors) == partitions and all(p.ready.is_set() for p in shards.processors.values())


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition of the running system."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s it is still not so that {what}")
        await asyncio.sleep(0.02)
