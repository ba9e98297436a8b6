"""Metrics and probes over a real socket."""

import asyncio
import socket
from types import SimpleNamespace

import pytest

from streams.backpressure.gate import GateCounts
from streams.errors import BrokerUnavailable, SettingsError
from streams.observe.listen import address_of, listen
from streams.observe.log_check import LogCheck
from streams.observe.server import serve_probes
from streams.observe.settings import ObserveSettings

SETTINGS = ObserveSettings(port=0, request_timeout_s=0.2)
READY = {"gateway": SimpleNamespace(address="127.0.0.1:1", responses={("submit", 202): 3}, admissions=GateCounts())}
UNREADY = {"shards": SimpleNamespace(processors={})}


async def ask_http(address: str, request: str) -> str:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def get(roles, path, accept="*/*"):
    async with serve_probes(SETTINGS, roles) as address:
        return await ask_http(address, f"GET {path} HTTP/1.1\r\nHost: here\r\nAccept: {accept}\r\n\r\n")


async def test_metrics_are_served_with_those_of_the_process():
    answer = await get(READY, "/metrics")
    assert answer.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain")
    assert 'streams_gateway_responses_total{route="submit",status="202"} 3.0' in answer
    assert "process_resident_memory_bytes" in answer


async def test_open_metrics_are_served_to_who_asks_for_them():
    answer = await get(READY, "/metrics", "application/openmetrics-text; version=1.0.0")
    assert "Content-Type: application/openmetrics-text" in answer
    assert answer.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("roles", "path", "status"),
    [
        (READY, "/livez", "200 OK"),
        (UNREADY, "/livez", "200 OK"),
        (READY, "/readyz", "200 OK"),
        (UNREADY, "/readyz", "503 Service Unavailable"),
        (READY, "/", "404 Not Found"),
    ],
)
async def test_probes_answer_by_status(roles, path, status):
    assert (await get(roles, path)).startswith(f"HTTP/1.1 {status}\r\n")


async def test_readiness_names_what_is_missing():
    assert (await get(UNREADY, "/readyz")).endswith("shards: no shard is assigned to this process\n")


async def answer_without_the_log(path):
    async def ask() -> None:
        raise BrokerUnavailable("Kafka is away")

    async with serve_probes(SETTINGS, READY, LogCheck(ask, "kafka:9092")) as address:
        return await ask_http(address, f"GET {path} HTTP/1.1\r\n\r\n")


async def test_a_process_without_its_log_is_not_ready_but_alive():
    unready = await answer_without_the_log("/readyz")
    assert unready.startswith("HTTP/1.1 503 ")
    assert unready.endswith("log: Kafka is away\n")
    assert (await answer_without_the_log("/livez")).startswith("HTTP/1.1 200 ")


async def test_a_scrape_without_the_log_says_so_and_has_the_rest():
    answer = await answer_without_the_log("/metrics")
    assert "streams_log_up 0.0" in answer
    assert 'streams_gateway_responses_total{route="submit",status="202"} 3.0' in answer


async def test_a_scrape_that_fails_is_500_and_the_server_goes_on():
    async with serve_probes(SETTINGS, {"shards": object()}) as address:
        assert "500 Internal" in await ask_http(address, "GET /metrics HTTP/1.1\r\n\r\n")
        assert "200 OK" in await ask_http(address, "HEAD /livez HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("nonsense", ["", "GET /livez", "x" * 20_000])
async def test_who_sends_no_request_is_let_go(nonsense):
    async with serve_probes(SETTINGS, READY) as address:
        assert await ask_http(address, nonsense) == ""


async def test_other_methods_are_refused():
    async with serve_probes(SETTINGS, READY) as address:
        assert "405 Method" in await ask_http(address, "POST /metrics HTTP/1.1\r\n\r\n")


async def test_answers_are_not_held_back_for_an_acknowledgement():
    seen = []

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listen("127.0.0.1", 0, "STREAMS_TEST")
    async with await asyncio.start_server(keep, sock=listener):
        await ask_http(address_of(listener), "")
    assert [bool(value) for value in seen] == [True]


async def test_no_port_serves_nothing():
    async with serve_probes(ObserveSettings(), READY) as address:
        assert address == ""


async def test_a_port_in_use_is_named_with_its_setting():
    async with serve_probes(SETTINGS, READY) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(SettingsError, match=rf"port {port} at 127.0.0.1 is in use .* STREAMS_OBSERVE__PORT"):
            async with serve_probes(ObserveSettings(port=port), READY):
                pass
