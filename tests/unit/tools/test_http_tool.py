import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from streams import App, ConfigurationError, InvalidInput, MissingFallback, Throttled, ToolRefused, Unavailable
from streams.errors import PayloadTooLarge
from streams.tools.context import CallInfo, current_call
from streams.tools.http_operation import MAX_RESPONSE_BYTES

DOCUMENT = {
    "openapi": "3.1.0",
    "servers": [{"url": "http://{host}/v1", "variables": {"host": {"default": "shop.example"}}}],
    "paths": {
        "/orders/{order-id}": {
            "parameters": [{"$ref": "#/components/parameters/Order"}],
            "get": {
                "operationId": "getOrder",
                "summary": "Look an order up.",
                "parameters": [
                    {"name": "expand", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "x-region", "in": "header", "schema": {"type": "string"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                ],
            },
            "put": {
                "operationId": "putOrder",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                },
            },
            "patch": {"operationId": "patchOrder", "requestBody": {"content": {"text/plain": {}}}},
        },
        "/lost/{id}": {"get": {"operationId": "lost"}},
        "/loop": {
            "post": {
                "operationId": "loop",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Loop"}}}},
            }
        },
    },
    "components": {
        "parameters": {
            "Order": {
                "name": "order-id", "in": "path", "required": True, "description": "Its number.",
                "schema": {"type": "string"},
            }
        },
        "schemas": {
            "Order": {
                "type": "object",
                "properties": {"cents": {"type": "integer", "minimum": 1}, "note": {"type": "string"}},
                "required": ["cents"],
            },
            "Loop": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Loop"}}},
        },
    },
}  # fmt: skip


@asynccontextmanager
async def service(answer):
    """Serve HTTP/1.1 on a free port; *answer* makes (status, headers, body) of (method, target, headers, body)."""
    seen = []

    async def serve(reader, writer):
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen.append((method, target, headers, body))
                status, extra, content = answer(*seen[-1])
                head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *extra]
                writer.write("\r\n".join([*head, "", ""]).encode() + content)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()


def declare(**options):
    app = App("shop")
    given = {"timeout": 5, "effect": "read", "returns": dict, "fallback": None}
    return app, app.http_tool("order", **{**given, **options})


async def call(app, tool, **arguments):
    try:
        return await tool.local(**tool.arguments.decode(tool.arguments.encode((), arguments)))
    finally:
        for connection in app.connections:
            await connection.aclose()


async def test_arguments_go_into_path_and_query():
    async with service(lambda *_: (200, [], b'{"ok": true}')) as (address, seen):
        app, tool = declare(url=f"{address}/orders/{{number}}", parameters={"number": str, "full": (bool, True)})
        assert await call(app, tool, number="a/b c") == {"ok": True}
    assert seen[0][:2] == ("GET", "/orders/a%2Fb%20c?full=true")


async def test_arguments_of_a_post_make_a_json_body_and_secrets_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    async with service(lambda *_: (201, [], b"")) as (address, seen):
        app, tool = declare(
            url=f"{address}/orders", method="post", parameters={"cents": int, "note": (str | None, None)},
            headers={"authorization": "Bearer ${SHOP_KEY}"}, effect="idempotent",
        )  # fmt: skip
        current_call.set(CallInfo("shop/1#3", "shop/1", "", 1, 0.0))
        assert await call(app, tool, cents=250) is None
    method, target, headers, body = seen[0]
    assert (method, target, json.loads(body)) == ("POST", "/orders", {"cents": 250, "note": None})
    assert (headers["authorization"], headers["idempotency-key"]) == ("Bearer s3cret", "shop/1#3")


async def test_a_secret_that_is_not_set_is_named():
    app, tool = declare(url="http://127.0.0.1:1/", headers={"authorization": "${NOT_SET_ANYWHERE}"})
    with pytest.raises(ConfigurationError, match="needs the environment variable NOT_SET_ANYWHERE"):
        await call(app, tool)


@pytest.mark.parametrize(
    ("status", "headers", "error", "said"),
    [
        (404, [], ToolRefused, "answered 404: no such order"),
        (429, ["retry-after: 7"], Throttled, "answered 429"),
        (503, ["retry-after: 7"], Unavailable, "answered 503"),
        (500, [], Exception, "answered 500"),
        (302, ["location: http://elsewhere.example/"], Exception, "answered 302"),
        (200, [], ValueError, "what is not JSON"),
    ],
)
async def test_what_a_status_means(status, headers, error, said):
    async with service(lambda *_: (status, headers, b"no such order")) as (address, _):
        app, tool = declare(url=f"{address}/orders")
        with pytest.raises(error, match=said) as raised:
            await call(app, tool)
    assert getattr(raised.value, "retry_after_s", 7) == 7


async def test_a_text_is_what_returns_says():
    async with service(lambda *_: (200, ["content-type: text/plain; charset=utf-8"], "größer".encode())) as (
        address,
        _,
    ):
        app, tool = declare(url=address, returns=str)
        assert await call(app, tool) == "größer"


async def test_a_response_over_its_bound_is_not_read_to_its_end():
    async with service(lambda *_: (200, [], b"x" * (MAX_RESPONSE_BYTES + 1))) as (address, _):
        app, tool = declare(url=address, returns=str)
        with pytest.raises(PayloadTooLarge):
            await call(app, tool)


async def test_an_operation_of_a_document_sends_each_argument_where_it_belongs(tmp_path):
    (tmp_path / "shop.yaml").write_text(json.dumps(DOCUMENT))
    async with service(lambda *_: (200, [], b"{}")) as (address, seen):
        app, tool = declare(openapi=tmp_path / "shop.yaml", operation="getOrder", base_url=f"{address}/v2")
        await call(app, tool, **{"order-id": "7", "expand": ["lines", "buyer"], "x-region": "eu"})
        app, tool = declare(openapi=DOCUMENT, operation="putOrder", base_url=address)
        await call(app, tool, **{"order-id": "7", "cents": 5})
    assert seen[0][:2] == ("GET", "/v2/orders/7?expand=lines&expand=buyer")
    assert seen[0][2]["x-region"] == "eu"
    assert (seen[1][0], seen[1][1], json.loads(seen[1][3])) == ("PUT", "/orders/7", {"cents": 5})


def test_an_operations_arguments_are_told_to_models_and_checked():
    app, tool = declare(openapi=DOCUMENT, operation="getOrder")
    assert app.tools["order"].description == "Look an order up."
    assert tool.arguments.json_schema()["properties"]["order-id"] == {"description": "Its number.", "type": "string"}
    assert "session" not in tool.arguments.json_schema()["properties"]
    _, put = declare(openapi=DOCUMENT, operation="putOrder")
    with pytest.raises(InvalidInput, match="cents: 0 is less than the minimum of 1"):
        put.arguments.encode((), {"order-id": "7", "cents": 0})


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("getOrders", "has no operation 'getOrders'; it has getOrder, putOrder"),
        ("patchOrder", "takes text/plain, and only application/json can be sent"),
        ("lost", r"has \{id\} in its path and declares no such parameter"),
        ("loop", "leads to itself"),
    ],
)
def test_an_operation_that_cannot_be_a_tool_is_refused_with_file_and_line(operation, said):
    with pytest.raises(ConfigurationError, match=rf"test_http_tool\.py:\d+: .*{said}"):
        declare(openapi=DOCUMENT, operation=operation)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs a url= or an openapi=, and not both"),
        ({"url": "http://x", "openapi": DOCUMENT}, "needs a url= or an openapi=, and not both"),
        ({"url": "shop.example/orders"}, "does not begin with http"),
        ({"url": "http://x/{}"}, "braces around what is no name"),
        ({"url": "http://x", "method": "FETCH"}, "method 'FETCH'"),
        ({"url": "http://x", "parameters": {"a b": str}}, "'a b' of tool 'order' is no name"),
        ({"openapi": {"swagger": "2.0"}}, "is no OpenAPI 3 document"),
        ({"openapi": "/nowhere.json"}, "cannot be read: No such file"),
        ({"url": "http://x", "rate": "fast"}, "rate 'fast'"),
    ],
)
def test_wrong_declarations_say_what_is_wrong(options, said):
    with pytest.raises(ConfigurationError, match=said):
        declare(**options)


def test_a_fallback_must_be_declared():
    with pytest.raises(MissingFallback, match=r"test_http_tool\.py:\d+: tool 'order' declares no fallback"):
        App("shop").http_tool("order", url="http://x", returns=dict, timeout=1, effect="read")  # type: ignore[call-overload]
