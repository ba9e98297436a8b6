"""The OpenAPI document, and a gateway over real sockets that schemathesis tries to catch breaking it."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest
from jsonschema import Draft202012Validator

from streams.gateway.door import Door
from streams.gateway.server import serve
from tests.unit.gateway.test_routes import ACME, TOKENS, open_shop

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = 3
SECONDS = 100


async def test_the_document_has_each_agents_input_and_needs_a_token():
    async with open_shop(tokens=TOKENS) as shop:
        assert (await shop.http.get("/v1/openapi.json")).status_code == 401
        answer = await shop.http.get("/v1/openapi.json", headers={"authorization": f"Bearer {ACME}"})
    document = answer.json()
    submissions = document["components"]["schemas"]["Submission"]["oneOf"]
    assert [one["properties"]["agent"]["const"] for one in submissions] == ["order", "approve"]
    assert document["components"]["schemas"]["order.input"]["required"] == ["customer", "amount"]
    assert document["security"] == [{"token": []}]
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name


@pytest.mark.slow
async def test_schemathesis_finds_nothing():
    async with open_shop(tokens=TOKENS, max_stream_s=0.1, max_wait_s=0.1) as shop:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            door = Door(100, 5.0)
            serving = asyncio.create_task(serve(shop.gateway.asgi(), listener, shop.gateway._settings, door))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/openapi.json"
            try:
                code, said = await _schemathesis(address)
            finally:
                serving.cancel()
                await asyncio.wait((serving,))
    assert code == 0, said
    assert shop.gateway.responses["submit", 202] > 0
    reached = [(route, status) for route, status in shop.gateway.responses if route != "submit" and status < 300]
    assert reached, shop.gateway.responses


async def _schemathesis(address: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", address, "--header", f"Authorization: Bearer {ACME}",
        "--max-examples", str(EXAMPLES), "--seed", "1", "--suppress-health-check", "all", "--no-color",
        "--generation-database", "none", "--request-timeout", "20",
        # A key that the input does not give, or two different idempotency keys: right by the schema, and refused.
        # And DELETE cancels: the result, which says so, stays.
        "--exclude-checks", "positive_data_acceptance,use_after_free",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, said.decode()
