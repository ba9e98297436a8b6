"""API keys come from the environment and go to the provider, and nowhere else, however indiscreet the provider is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streams.app import App
from streams.breakers.feed import partitions_of
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.table import read_to_end
from streams.llm.role import LlmRole
from streams.llm.settings import LlmSettings, PoolSettings
from streams.observe.collect import RoleCollector
from streams.observe.logs import QUIET
from streams.records.topics import Catalogue
from tests.integration.llm_requests import create_topics, publish, request_of, wait_for_results

KEYS = ("sk-live-7f3a9c-one", "sk-live-7f3a9c-two")


class Gossip:
    """An HTTP server that repeats the key in whatever it says, each time in another way."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
                fields = {name.lower(): value for name, value in lines.items()}
                await reader.readexactly(int(fields["content-length"]))
                key = fields.get("x-api-key") or fields["authorization"].removeprefix("Bearer ")
                self.heard.add(key)
                self.asked += 1
                status, body = self.says(key)
                kind = "text/event-stream" if body.startswith(b"data:") else "application/json"
                writer.write(
                    f"HTTP/1.1 {status} Said\r\nx-request-id: {key}\r\ncontent-type: {kind}\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def says(self, key: str) -> tuple[int, bytes]:
        error = orjson.dumps({"type": "error", "error": {"type": "x", "message": f"you sent {key}, {key}"}})
        match self.asked % 7:
            case 0:
                return 500, error
            case 1:
                return 200, b'{"key": "%s"}' % key.encode()
            case 2:
                return 200, f"no JSON for {key}".encode()
            case 3:
                return 200, b"data: {'key': '%s'}\n\ndata: [DONE]\n\n" % key.encode()
            case 4:
                return 503, f"<html>{key}</html>".encode()
            case 5:
                return 429, error
            case _:
                return (401, error) if self.asked > 60 else (400, error)


@asynccontextmanager
async def gossip() -> AsyncIterator[tuple[Gossip, str]]:
    it = Gossip()
    server = await asyncio.start_server(it, "127.0.0.1", 0)
    async with server:
        yield it, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_keys_are_in_no_topic_no_log_no_status_and_no_metric(provider, monkeypatch, caplog, capfd):
    monkeypatch.setenv("FAST_API_KEYS", ",".join(KEYS))
    caplog.set_level(logging.DEBUG)
    for name in QUIET:  # as in every process; below that, the HTTP clients tell all that goes over the wire
        caplog.set_level(logging.WARNING, name)
    catalogue = Catalogue("app", partitions=2)
    log = SimulatedLog(Random(1), epoch_s=time.time() - asyncio.get_running_loop().time())
    broker = SimulatedBroker(log, "test")
    await create_topics(broker, catalogue)
    async with gossip() as (server, url):
        base_url = f"{url}/v1" if provider == "openai" else url
        pool = PoolSettings(provider=provider, base_url=base_url, model="m", max_hold_s=0.5, on_outage="fallback")
        settings = LlmSettings(pools={"fast": pool}, drain_s=0.5)
        role = LlmRole(App("app"), SimulatedBroker(log, "llm"), catalogue, settings)
        task = asyncio.create_task(role.run())
        now = time.time()
        requests = [request_of(n, now=now, wait_s=1.5, stream=n % 2 == 0) for n in range(40)]
        await publish(broker, catalogue, *requests)
        found = await wait_for_results(broker, catalogue, len(requests), 30)
        await asyncio.sleep(0.5)
        registry = CollectorRegistry()
        registry.register(RoleCollector({"llm": role}, 1_000))
        shown = [repr(role.status()), repr(settings), settings.model_dump_json(), generate_latest(registry).decode()]
        task.cancel()
        await asyncio.wait([task])
    assert server.heard == set(KEYS)
    assert {result.status for result in found} >= {"failed"}
    assert any("***" in result.error_message for result in found)
    written = [record async for record in every_record(broker, catalogue)]
    assert len(written) >= 2 * len(requests)
    told = "\n".join([*shown, caplog.text, *(repr(record.exc_info) for record in caplog.records), *capfd.readouterr()])
    for secret in (*KEYS, "7f3a9c"):
        assert secret not in told
        assert [record for record in written if secret.encode() in record] == []


async def every_record(broker: SimulatedBroker, catalogue: Catalogue) -> AsyncIterator[bytes]:
    for plan in catalogue.topics():
        async for batch in read_to_end(broker, partitions_of(catalogue, plan.kind.name)):
            for record in batch:
                yield b"|".join((record.key or b"", record.value or b"", *(value for _, value in record.headers)))
