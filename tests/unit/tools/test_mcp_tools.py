import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from streams import App, ConfigurationError, InvalidInput, MissingFallback, ToolRefused
from streams.errors import UnknownName

SERVER = Path(__file__).with_name("mcp_example.py")
COMMAND = [sys.executable, str(SERVER)]


def declare(app: App, folder: Path, **options):
    given = {"command": COMMAND, "timeout": 5, "effect": "read", "fallback": None}
    return app.mcp("example", manifest=folder / "example.mcp.json", **{**given, **options})


@pytest.fixture(scope="module")
def discovered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    asyncio.run(declare(App("first"), folder).discover())
    return folder


async def test_what_a_server_offers_becomes_tools_with_their_schemas(discovered):
    app = App("shop")
    tools = declare(app, discovered)
    try:
        assert set(app.tools) == {"example_add", "example_whoami", "example_refuse", "example_die"}
        assert app.tools["example_add"].description == "Add two numbers."
        assert set(app.tools["example_add"].arguments.json_schema()["properties"]) == {"first", "second"}
        assert await tools["add"](first=2, second=3) == 5
        assert (await tools["whoami"]())["account"] == "nobody"
    finally:
        await tools.connection.aclose()


async def test_a_servers_error_reaches_the_caller_with_its_words(discovered):
    tools = declare(App("shop"), discovered)
    try:
        with pytest.raises(ToolRefused, match="out of stock"):
            await tools["refuse"](reason="out of stock")
    finally:
        await tools.connection.aclose()


async def test_a_session_that_dies_in_a_call_is_replaced_by_the_next(discovered):
    tools = declare(App("shop"), discovered)
    try:
        before = (await tools["whoami"]())["pid"]
        with pytest.raises(Exception, match="closed"):
            await tools["die"]()
        assert (await tools["whoami"]())["pid"] != before
    finally:
        await tools.connection.aclose()


async def test_closing_ends_the_servers_process(discovered):
    tools = declare(App("shop"), discovered)
    pid = int((await tools["whoami"]())["pid"])
    await tools.connection.aclose()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_secrets_come_from_the_environment_when_the_server_starts(discovered, monkeypatch):
    tools = declare(App("shop"), discovered, environment={"EXAMPLE_KEY": "${SHOP_KEY}"})
    with pytest.raises(ConnectionError, match="SHOP_KEY, which is not set"):
        await tools["whoami"]()
    monkeypatch.setenv("SHOP_KEY", "ada")
    try:
        assert (await tools["whoami"]())["account"] == "ada"
    finally:
        await tools.connection.aclose()


async def test_streamable_http_is_spoken_too(discovered):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*COMMAND, str(port), stdout=nowhere, stderr=nowhere)
    tools = declare(App("shop"), discovered, command=(), url=f"http://127.0.0.1:{port}/mcp")
    try:
        for attempt in range(100):
            try:
                assert await tools["add"](first=1, second=1) == 2
                break
            except ConnectionError:
                assert attempt < 99
                await asyncio.sleep(0.1)
    finally:
        await tools.connection.aclose()
        process.kill()
        await process.wait()


def test_arguments_are_checked_before_anything_is_sent(discovered):
    tools = declare(App("shop"), discovered)
    with pytest.raises(InvalidInput, match="example_add: first: 'two' is not of type 'integer'"):
        tools["add"].arguments.encode((), {"first": "two", "second": 1})
    with pytest.raises(InvalidInput, match="'second' is a required property"):
        tools["add"].arguments.encode((1,), {})
    with pytest.raises(InvalidInput, match="third"):
        tools["add"].arguments.encode((1, 2), {"third": 3})


def test_without_a_manifest_the_message_says_how_to_make_it(tmp_path):
    tools = declare(App("shop"), tmp_path)
    with pytest.raises(ConfigurationError, match="streams mcp discover MODULE:APP"):
        list(tools)


def test_a_tool_without_a_fallback_is_refused(discovered):
    app = App("shop")
    with pytest.raises(MissingFallback, match="tool 'example_die' declares no fallback"):
        app.mcp(
            "example", command=COMMAND, manifest=discovered / "example.mcp.json", timeout=5, effect="read",
            fallbacks={"add": 0, "refuse": ""},
        )  # fmt: skip


def test_only_what_is_named_is_declared_with_its_own_effect(discovered):
    app = App("shop")
    declare(app, discovered, only=["add", "refuse"], effects={"refuse": "at-most-once"})
    assert {name: tool.policy.effect for name, tool in app.tools.items()} == {
        "example_add": "read",
        "example_refuse": "at-most-once",
    }
    with pytest.raises(UnknownName, match="has no tool 'subtract'"):
        declare(App("shop"), discovered, only=["subtract"])


async def test_a_server_that_has_changed_is_told_from_its_manifest(discovered, tmp_path):
    document = json.loads((discovered / "example.mcp.json").read_text())
    document["tools"] = [tool for tool in document["tools"] if tool["name"] != "die"]
    document["tools"][0]["arguments"] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    document["tools"].append({"name": "gone", "description": "", "arguments": {"type": "object"}})
    (tmp_path / "example.mcp.json").write_text(json.dumps(document))
    assert await declare(App("shop"), tmp_path).drift() == ["add takes other arguments", "die is new", "gone is gone"]
    assert await declare(App("shop"), discovered).drift() == []


async def test_a_server_that_does_not_start_is_named(tmp_path):
    tools = declare(App("shop"), tmp_path, command=["/nowhere/at-all"])
    with pytest.raises(
        ConfigurationError, match=r"MCP server 'example' \(/nowhere/at-all\) did not say what it offers"
    ):
        await tools.discover()


@pytest.mark.parametrize("wrong", [{"command": ()}, {"url": "http://x/mcp"}])
def test_a_server_has_either_a_command_or_an_address(wrong, tmp_path):
    with pytest.raises(ConfigurationError, match="needs a command= or a url=, and not both"):
        declare(App("shop"), tmp_path, **wrong)


def test_a_manifest_that_is_damaged_is_named(tmp_path):
    (tmp_path / "example.mcp.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"example\.mcp\.json cannot be read"):
        declare(App("shop"), tmp_path)
