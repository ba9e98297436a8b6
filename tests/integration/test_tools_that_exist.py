"""A ReAct agent with an HTTP tool and an MCP server's on real Kafka: discovered, called, refused, killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import orjson
import pytest

from streams import App, ToolRequest
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider
from tests.integration.running import Running, running
from tests.unit.tools.test_http_tool import service

pytestmark = [pytest.mark.kafka]
SERVER = Path(__file__).parents[1] / "unit" / "tools" / "mcp_example.py"


def call(name: str, **arguments: object) -> ToolRequest:
    return ToolRequest(id=name, name=name, arguments=orjson.dumps(arguments).decode())


def answer(request: ChatRequest) -> ChatResponse:
    """Call every tool in the first turn, and repeat what they said in the second."""
    told = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if told:
        return ChatResponse(" | ".join(told))
    wanted = (
        call("example_add", first=2, second=3), call("example_refuse", reason="sold out"), call("rate", currency="EUR"),
        call("rate", currency="none"), call("example_whoami"),
    )  # fmt: skip
    return ChatResponse("", wanted, "tool_calls")


async def test_a_react_agent_uses_http_and_mcp_tools_and_survives_the_servers_death(
    streams_kafka: str, tmp_path: Path
) -> None:
    app = App("shop")
    fast = app.model("fast", fallback="later")
    example = app.mcp(
        "example", command=[sys.executable, str(SERVER)], timeout=10, effect="read", fallback=None,
        manifest=tmp_path / "example.mcp.json",
    )  # fmt: skip
    await example.discover()
    example.load()
    known: dict[str, tuple[int, list[str], bytes]] = {"/EUR": (200, [], b'{"rate": 1.5}')}
    async with service(lambda _, target, *rest: known.get(target, (404, [], b"no such currency"))) as (address, _):
        rate = app.http_tool(
            "rate", url=f"{address}/{{currency}}", returns=dict, timeout=5, effect="read", fallback=None
        )
        support = app.react("support", key="customer", instructions="Help.", model=fast, tools=[example, rate])
        async with running(app, streams_kafka, models={"fast": FunctionProvider(answer)}) as world:
            first = await _ask(world, support, "one")
            assert first[:4] == [
                "5",
                "error: ToolRefused: refuse: Error executing tool refuse: sold out",
                '{"rate":1.5}',
                f"error: ToolRefused: GET {address}/none answered 404: no such currency",
            ]
            pid = int(orjson.loads(first[4])["pid"])
            os.kill(pid, signal.SIGKILL)
            again = await _ask(world, support, "two")
            assert again[0] == "5"
            assert int(orjson.loads(again[4])["pid"]) != pid


async def _ask(world: Running, agent: object, message: str) -> list[str]:
    handle = await world.client.submit("support", {"customer": "ada", "message": message})
    result = await handle.result(timeout=60)
    assert result.status == "succeeded", result.error_message
    return str(result.value).split(" | ")
