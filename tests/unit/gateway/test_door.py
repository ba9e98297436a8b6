"""Connections over real sockets: silent ones are closed, and never in the way of those who ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from streams.gateway import GatewaySettings
from streams.gateway.door import Door
from streams.gateway.server import serve
from tests.unit.gateway.test_routes import until

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class House:
    def __init__(self, port: int, door: Door, gate: asyncio.Event) -> None:
        self.port = port
        self.door = door
        self.gate = gate

    async def knock(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def house(most: int = 3, patience_s: float = 60.0) -> AsyncIterator[House]:
    gate = asyncio.Event()

    async def answer(_: Request) -> PlainTextResponse:
        await gate.wait()
        return PlainTextResponse("well")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door(most, patience_s)
        app = Starlette(routes=[Route("/", answer)])
        serving = asyncio.create_task(serve(app, listener, GatewaySettings(grace_s=0), door))
        try:
            yield House(listener.getsockname()[1], door, gate)
        finally:
            gate.set()
            serving.cancel()
            await asyncio.wait((serving,))


async def status(reader: asyncio.StreamReader) -> bytes:
    return (await asyncio.wait_for(reader.readline(), 20)).split(b" ")[1]


async def test_many_silent_connections_do_not_keep_anybody_out() -> None:
    async with house(most=20) as it:
        it.gate.set()
        silent = [await it.knock() for _ in range(200)]
        reader, writer = await it.knock(ASK)
        assert await status(reader) == b"200"
        assert it.door.turned_away == 0
        assert it.door.closed_idle >= 180
        for _, each in (*silent, (reader, writer)):
            each.close()


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with house(patience_s=0.05) as it:
        reader, _ = await it.knock()
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert it.door.closed_idle == 1


async def test_a_head_that_drips_is_closed_however_often_a_byte_comes() -> None:
    async with house(patience_s=0.2) as it:
        reader, writer = await it.knock(b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            assert await asyncio.wait_for(reader.read(), 20) == b""
        finally:
            dripping.cancel()
        assert it.door.closed_idle == 1


async def test_when_all_are_at_work_a_new_one_is_told_to_come_back() -> None:
    async with house(most=2) as it:
        working = [await it.knock(ASK) for _ in range(2)]
        await until(lambda: not it.door._idle)
        reader, _ = await it.knock(ASK)
        answer: Any = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        assert b"max_connections" in answer
        assert it.door.turned_away == 1
        it.gate.set()
        assert [await status(reader) for reader, _ in working] == [b"200", b"200"]


async def test_one_that_waits_between_two_requests_makes_room() -> None:
    async with house(most=1) as it:
        it.gate.set()
        reader, _ = await it.knock(ASK)
        assert await status(reader) == b"200"
        await until(lambda: bool(it.door._idle))
        second, _ = await it.knock(ASK)
        assert await status(second) == b"200"


async def test_requests_one_after_the_other_share_a_connection() -> None:
    async with house(most=1) as it:
        it.gate.set()
        reader, writer = await it.knock(ASK + ASK)
        for _ in range(3):
            assert await status(reader) == b"200"
            while await reader.readline() != b"\r\n":
                pass
            assert await reader.readexactly(4) == b"well"
            writer.write(ASK)
        assert it.door.closed_idle == 0
