"""Agents that share records, and the process that owns their shards and is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from pydantic import BaseModel

from streams import App, Context, Log, load_settings
from streams.cli.roles import run_roles
from tests.simulation.sharing import share

app = App("sharers")


class Sharing(BaseModel):
    """Operations (what, key) on shared records, one after the other."""

    key: str
    operations: list[tuple[str, str]] = []


class Notes(BaseModel):
    """State of a sharer."""

    title: str = "none"
    lines: Log[str] = Log()


@app.agent(key="key")
async def sharer(ctx: Context[None], request: Sharing) -> list[Any]:
    """Do what it is asked; return what it saw."""
    seen: list[Any] = []
    known: dict[str, Any] = {}
    for number, (what, key) in enumerate(request.operations):
        await share(ctx, seen, known, what, key, f"{ctx.invocation_id}:{number}")
    return seen


@app.agent(key="key", state=Notes)
async def noter(ctx: Context[Notes], request: Sharing) -> int:
    """Note down what it is asked; wait for a signal where that is asked."""
    for what, key in request.operations:
        if what == "wait":
            await ctx.signal(key)
        elif what == "title":
            ctx.state.title = key
        else:
            ctx.state.lines.append(key)
    return len(ctx.state.lines)


def own_shards(bootstrap: str, namespace: str) -> None:
    """Be the process that owns the shards, until it is killed."""
    structlog.configure(processors=[_drop])
    settings = load_settings(
        namespace=namespace, kafka={"bootstrap_servers": bootstrap}, instance_id="the-one", observe={"port": 0}
    )  # fmt: skip
    asyncio.run(run_roles(app, settings, ["shards"]))


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent
