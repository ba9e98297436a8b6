"""The application of the pipeline benchmark, and the processes that run it: models and tools answer at once."""

from __future__ import annotations

import asyncio
import logging

import structlog
from pydantic import BaseModel

from streams.agents.context import Context
from streams.app import App
from streams.broker.kafka.broker import KafkaBroker
from streams.broker.kafka.settings import KafkaSettings
from streams.cli.roles import collect_rarely, run_roles
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.llm.usage import Usage
from streams.settings import Settings
from streams.tools.role import ToolRole
from tests.bench.load import PARTITIONS, PAYLOAD

app = App("bench")
fast = app.model("fast", fallback="no answer")


class Work(BaseModel):
    """What a run is asked."""

    customer: str
    text: str = PAYLOAD


@app.tool(timeout=30, effect="read", fallback="no answer", concurrency=10_000)
async def look_up(customer: str) -> str:
    """Answer at once."""
    return PAYLOAD


@app.agent(key="customer")
async def three_steps(ctx: Context[None], work: Work) -> str:
    """Model, tool, model."""
    await fast.chat(PAYLOAD)
    await look_up(work.customer)
    reply = await fast.chat(PAYLOAD)
    return reply.text


def settings(bootstrap: str, namespace: str, instance_id: str | None = None) -> Settings:
    """Return the settings of every process; defaults wherever possible."""
    return Settings(
        namespace=namespace,
        instance_id=instance_id,
        partitions=PARTITIONS,
        kafka=KafkaSettings(bootstrap_servers=bootstrap),
        llm=LlmSettings(pools={"fast": PoolSettings(model="none", connections=10_000)}),
    )


async def shards(bootstrap: str, namespace: str, instance_id: str | None = None) -> None:
    """Be a process that owns shards."""
    _log_less()
    await run_roles(app, settings(bootstrap, namespace, instance_id), ["shards"])


async def workers(bootstrap: str, namespace: str) -> None:
    """Be the process that works tools and models."""
    _log_less()
    collect_rarely()
    chosen = settings(bootstrap, namespace)
    broker = KafkaBroker(chosen.kafka_for_payloads())
    await broker.connect()
    catalogue = chosen.catalogue(app.name, dict(app.lanes()))
    llm = LlmRole(app, broker, catalogue, chosen.llm, providers={"fast": FunctionProvider(_answer)})
    tools = ToolRole(app, broker, catalogue, chosen.tools)
    async with asyncio.TaskGroup() as group:
        group.create_task(tools.run())
        group.create_task(llm.run())


def _answer(request: ChatRequest) -> ChatResponse:
    return ChatResponse(PAYLOAD, usage=Usage(75, 75))


def _log_less() -> None:
    logging.basicConfig(level=logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
