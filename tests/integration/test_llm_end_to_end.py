"""Agents that talk to a model through the whole pipeline on a real Kafka, against the strict mock provider."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from streams import App, Budget, BudgetExceeded, Client, Context, Message, load_settings
from streams.broker.connect import open_broker
from streams.broker.topics import create_namespace
from streams.cli import app as command_line
from streams.cli.roles import make_role
from streams.demo.provider import Limits, MockConfig, MockProvider
from streams.llm.role import LlmRole
from tests.integration.running import until

app = App("talks")
fast = app.model("fast", fallback="sorry", max_output_tokens=100)


class Ask(BaseModel):
    who: str = "ada"
    say: str = "hello"
    calls: int = 1


class Verdict(BaseModel):
    action: str
    cents: int = 3


@app.tool(timeout=5, effect="read", fallback="unknown")
async def look_up(customer: str) -> str:
    """Look up a customer."""
    return f"{customer} is well"


@app.agent(key="who")
async def chat(ctx: Context[None], ask: Ask) -> str:
    return (await fast.chat(ask.say, stream=True)).text


@app.agent(key="who")
async def judge(ctx: Context[None], ask: Ask) -> int:
    reply = await fast.chat(ask.say, output=Verdict)
    return reply.output.cents


@app.agent(key="who")
async def assist(ctx: Context[None], ask: Ask) -> str:
    messages = [Message(role="user", content=ask.say)]
    while (reply := await fast.chat(messages, tools=[look_up])).tool_calls:
        messages += [reply.message, *await reply.run_tools()]
    return reply.text


@app.agent(key="who", budget=Budget(cost=300.0))
async def thrifty(ctx: Context[None], ask: Ask) -> int:
    for number in range(ask.calls):
        try:
            await fast.chat(ask.say)
        except BudgetExceeded:
            return number
    return ask.calls


class World:
    def __init__(self, client: Client, llm: LlmRole, namespace: str, kafka: str) -> None:
        self.client = client
        self.llm = llm
        self.namespace = namespace
        self.kafka = kafka

    async def ask(self, agent: Any, **fields: Any) -> Any:
        tenant = fields.pop("tenant", "")
        handle = await self.client.submit(agent, Ask(**fields), tenant=tenant)
        return await handle.result(timeout=30)

    async def streams(self, *arguments: str) -> Any:
        """Call the command line, which has an event loop of its own, and return the JSON or the text that it prints."""

        def call() -> Any:
            environment = {"STREAMS_KAFKA__BOOTSTRAP_SERVERS": self.kafka}
            result = CliRunner().invoke(command_line, [*arguments, "-s", self.namespace], env=environment)
            assert result.exit_code == 0, result.output
            return orjson.loads(result.stdout) if "--json" in arguments else result.stdout

        return await asyncio.to_thread(call)


@asynccontextmanager
async def world(kafka: str, mock: MockProvider, **llm: Any) -> AsyncIterator[World]:
    pool = {"base_url": mock.base_url, "model": "mock-1", "input_price": 0.0, "output_price": 1e6, "concurrency": 20}
    namespace = f"talks-{uuid.uuid4().hex[:8]}"
    settings = load_settings(
        namespace=namespace,
        kafka={"bootstrap_servers": kafka},
        llm={"pools": {"fast": pool}, "usage_flush_s": 0.1, **llm},
    )
    broker = open_broker(settings.kafka_for_payloads())
    catalogue = settings.catalogue(app.name, dict(app.lanes()))
    try:
        await create_namespace(broker.admin, catalogue, 1)
        roles = {name: make_role(name, app, broker, catalogue, settings) for name in ("shards", "tools", "llm")}
        tasks = [asyncio.create_task(role.run()) for role in roles.values()]
        try:
            async with Client(app, settings=settings) as client:
                llm_role = roles["llm"]
                assert isinstance(llm_role, LlmRole)
                yield World(client, llm_role, namespace, kafka)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await broker.admin.delete_topics([n for n in await broker.admin.list_topics() if n.startswith(f"{namespace}.")])
        await broker.close()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST_API_KEYS", "sk-of-this-test-1,sk-of-this-test-2")


async def test_what_models_say_comes_through_whole_in_pieces_as_types_and_as_tools(kafka):
    async with MockProvider(MockConfig(chunk_gap_s=0.02)) as mock, world(kafka, mock) as running:
        handle = await running.client.submit(chat, Ask(say="write 60"))
        pieces = [piece async for piece in handle.tokens()]
        whole = await handle.result(timeout=30)
        assert whole.value == "word" * 60
        assert "".join(piece.text for piece in pieces) == whole.value
        assert len(pieces) > 1  # while it was written, not when it was complete
        assert [piece.index for piece in pieces] == list(range(len(pieces)))
        assert (whole.usage.output, whole.usage.cost) == (60, 60.0)

        assert (await running.ask(judge, say="decide")).value == 3
        assert (await running.ask(assist, say='call look_up {"customer": "ada"}')).value == 'echo: "ada is well"'

        refused = await running.ask(assist, say='call sell {"customer": "ada"}')
        assert (refused.status, refused.error_type) == ("failed", "ModelRefused")
        assert refused.error_message == "told to call 'sell', which is not among the tools"
        assert running.llm.dispatcher.pools["fast"].guard.phase == "closed"
        assert mock.stats.as_json(with_ids=False)["by_status"] == {"200": 4, "400": 1}


async def test_budgets_stop_calls_and_operators_see_and_change_what_goes_on(kafka):
    config = MockConfig(limits=Limits(requests_per_minute=600, concurrency=20))
    budgets = {"acme": {"tokens": 400}}
    async with MockProvider(config) as mock, world(kafka, mock, tenant_budgets=budgets) as running:
        # Each call costs 60, and may cost 100: after four of them 240 are spent.
        thrift = await running.ask(thrifty, say="write 60", calls=9)
        assert (thrift.value, thrift.usage.cost, thrift.usage.output) == (4, 240.0, 240)

        spent = [await running.ask(chat, say="write 60", tenant="acme") for _ in range(7)]
        assert [result.error_type for result in spent] == [*[""] * 5, "BudgetExceeded", "BudgetExceeded"]
        assert "tenant 'acme' has used" in spent[-1].error_message
        assert mock.stats.as_json(with_ids=False)["by_status"] == {"200": 9}

        def usage() -> Any:
            return running.streams("llm", "usage", "--json")

        rows = {row["tenant"]: row for row in await usage()}
        async with asyncio.timeout(20):
            while rows.get("acme", {}).get("requests") != 5 or rows[""]["requests"] != 4:
                rows = {row["tenant"]: row for row in await usage()}
        assert (rows["acme"]["model"], rows["acme"]["cost"]) == ("mock-1", 300.0)
        assert (rows[""]["output_tokens"], rows[""]["cost"]) == (240, 240.0)

        because = ("--reason", "a test")
        await running.streams("llm", "limits", "--tenant", "acme", "--budget-tokens", "5000", *because)
        await running.streams("llm", "limits", "fast/2", "--concurrency", "7", *because)
        said = await running.streams("llm", "limits", "fast", "--requests", "300", *because)
        assert said == "fast: requests_per_minute 300\n"
        await until(lambda: len(running.llm.status()[0].keys[0].buckets) == 1, "the new limit is applied")
        assert (await running.ask(chat, say="write 60", tenant="acme")).succeeded

        (status,) = await running.streams("llm", "status", "--json")
        while not status["changed"] or status["counts"]["sent"] < 10:
            (status,) = await running.streams("llm", "status", "--json")
        keys = {key["key_name"]: key for key in status["keys"]}
        assert [change["subject"] for change in status["changed"]] == ["fast", "fast/2"]
        assert keys["fast/1"]["buckets"][0]["per_minute"] == 300
        assert (keys["fast/1"]["concurrency"], keys["fast/2"]["concurrency"]) == (20, 7)
        assert (status["held"], status["down"], status["counts"]["throttled"]) == (0, "", 0)
        shown = await running.streams("llm", "status")
        assert "limits of fast/2 changed" in shown
        assert "of 290 (300/min)" in shown
        assert "sk-of-this" not in shown

        await running.streams("llm", "limits", "fast", "--reset", *because)
        changes = await running.streams("llm", "limits", "--json")
        assert [change["subject"] for change in changes] == ["tenant:acme", "fast/2"]
        assert {change["reason"] for change in changes} == {"a test"}
