"""The application of the benchmark of shared records, and the process that owns its shards."""

from __future__ import annotations

import logging

import structlog
from pydantic import BaseModel

from streams.agents.context import Context
from streams.app import App
from streams.broker.kafka.settings import KafkaSettings
from streams.cli.roles import run_roles
from streams.settings import Settings
from tests.bench.load import PARTITIONS

app = App("sharing")


class Turn(BaseModel):
    """What a counting agent is asked: how often to count, in which record, and how."""

    agent: str
    record: str
    times: int = 1
    how: str = "update"


class Counted(BaseModel):
    """State of one agent, for what a write costs."""

    times: int = 0


def bump(count: int | None) -> int:
    """Return the next number."""
    return (count or 0) + 1


@app.agent(key="agent")
async def count(ctx: Context[None], turn: Turn) -> list[float]:
    """Count; return how long each time took, in milliseconds of the shard's clock."""
    counters, took = ctx.shared("counters", int), []
    for _ in range(turn.times):
        started = ctx.now()
        if turn.how == "update":
            await counters.update(turn.record, bump)
        else:
            seen = await counters.read(turn.record)
            await counters.write(turn.record, bump(seen.value), expected=None)
        took.append((ctx.now() - started).total_seconds() * 1e3)
    return took


@app.agent(key="agent", state=Counted)
async def remember(ctx: Context[Counted], turn: Turn) -> int:
    """Change one record of state."""
    ctx.state.times += 1
    return ctx.state.times


def settings(bootstrap: str, namespace: str) -> Settings:
    """Return the settings of every process; defaults wherever possible."""
    return Settings(namespace=namespace, partitions=PARTITIONS, kafka=KafkaSettings(bootstrap_servers=bootstrap))


async def shards(bootstrap: str, namespace: str) -> None:
    """Be the process that owns the shards."""
    logging.basicConfig(level=logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    await run_roles(app, settings(bootstrap, namespace), ["shards"])
