"""Tool workers as processes on a real Kafka that are killed, stopped, or stuck; the dependency itself counts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from streams import App, Handle, UnknownInvocation
from streams.client.outcome import InvocationResult
from streams.tools.role import ToolRole
from streams.tools.settings import ToolSettings
from tests.integration.effects_app import alone, app, parent, payer, stuck, unlucky
from tests.integration.running import Running, running, until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PAYMENTS = 18
TAKES_S = 0.4


class Dependency:
    """Answers after a while, and counts what it was told, by key."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.port = 0

    async def __aenter__(self) -> Dependency:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = (await reader.readline()).decode().strip()
            self.told[said] += 1
            await asyncio.sleep(TAKES_S)
            writer.write(b"done\n")
            await writer.drain()
        except ConnectionError:
            pass  # the worker was killed while it waited
        finally:
            writer.close()

    def count(self, what: str) -> int:
        return sum(count for said, count in self.told.items() if said.startswith(what))


@asynccontextmanager
async def worker(system: Running, port: int, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the role `tools` in a process of its own, always in the same seat of the group."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams", "run", "tests.integration.effects_app:app", "--role", "tools",
        env={
            **os.environ, "PYTHONHASHSEED": "0", "EFFECTS_PORT": str(port),
            "STREAMS_KAFKA__BOOTSTRAP_SERVERS": system.settings.kafka.bootstrap_servers,
            "STREAMS_NAMESPACE": system.catalogue.namespace, "STREAMS_INSTANCE_ID": "worker", **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.communicate()


async def results_of(handles: list[Handle[Any]]) -> list[InvocationResult[Any]]:
    return [await handle.result(timeout=60) for handle in handles]


async def test_no_effect_happens_twice_whoever_is_killed_or_wakes_up_late(kafka: str):
    async with Dependency() as bank, running(app, kafka, roles=("shards",)) as system:
        handles = [await system.client.submit(payer, number) for number in range(PAYMENTS)]
        async with worker(system, bank.port) as first:
            await until(lambda: bank.count("pay") >= 3, "payments have begun")
            first.kill()  # in the midst of them
            await first.wait()
            async with worker(system, bank.port) as second:
                await until(lambda: bank.count("pay") >= 9, "the second worker pays")
                second.send_signal(signal.SIGSTOP)
                async with worker(system, bank.port):
                    seen = bank.count("pay")
                    await until(lambda: bank.count("pay") > seen, "the third worker pays")
                    second.send_signal(signal.SIGCONT)  # a zombie, with calls that it was about to make
                    results = await results_of(handles)
                    await asyncio.sleep(3 * TAKES_S)
        paid = [count for said, count in bank.told.items() if said.startswith("pay")]
        assert max(paid) == 1
        outcomes = Counter(result.value[0] for result in results)
        assert outcomes.keys() <= {"done", "unconfirmed: interrupted"}
        assert outcomes["unconfirmed: interrupted"] >= 1
        assert outcomes["done"] >= PAYMENTS - 9
        assert {result.value[1] for result in results} == {"done"}
        for handle, result in zip(handles, results, strict=True):
            assert result.degraded == (result.value[0] != "done")
            if not result.degraded:
                assert bank.told[f"pay {handle.invocation_id}#0.1"] == 1


async def test_a_worker_full_of_threads_that_never_return_says_so_and_ends(kafka: str):
    async with running(app, kafka, roles=("shards",)) as system:
        handles = [await system.client.submit(stuck, number) for number in range(4)]
        async with worker(system, 0, STREAMS_TOOLS__MAX_ABANDONED_THREADS="2") as process:
            results = await results_of(handles[:1])
            assert results[0].value == "unconfirmed: timeout"
            _, said = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode not in (0, None)
        assert "threads of tools have not returned" in said.decode()
        assert "never_returns" in said.decode()


async def test_a_fallback_applies_although_no_worker_is_there(kafka: str):
    async with running(app, kafka, roles=("shards",)) as system:
        direct, through_a_child = await results_of(
            [await system.client.submit(alone, 1), await system.client.submit(parent, 2)]
        )
        assert direct.value == through_a_child.value == "nobody answered, deadline"
        assert direct.degraded
        assert through_a_child.degraded
        assert system.shards.measures.fallbacks == {("tool", "unattended", "deadline"): 2}


async def waits(handle: Handle[Any]) -> dict[str, Any]:
    """Return the first thing that an invocation waits for, once a worker has said something about it."""
    for _ in range(600):
        with suppress(UnknownInvocation):
            waiting = (await handle.status())["waits_for"]
            if waiting and "notice" in waiting[0]:
                found: dict[str, Any] = waiting[0]
                return found
        await asyncio.sleep(0.05)
    raise TimeoutError(f"no worker said why {handle} waits")


async def test_a_call_waits_for_the_deploy_of_its_tool_and_says_so(kafka: str):
    async with running(app, kafka, roles=("shards",)) as system:
        handle = await system.client.submit(unlucky, 1)
        older = ToolRole(App("effects"), system.broker, system.catalogue, ToolSettings())
        before = asyncio.create_task(older.run())
        waiting = await waits(handle)
        assert (waiting["name"], waiting["notice"]) == ("breaks", "the worker has no tool 'breaks'; deploy it")
        assert 0 < waiting["falls_back_in_s"] <= 65
        before.cancel()
        await asyncio.wait([before])
        newer = asyncio.create_task(ToolRole(app, system.broker, system.catalogue, ToolSettings()).run())
        try:
            assert (await handle.result(timeout=60)).error_type == "HandlerError"
        finally:
            newer.cancel()
            await asyncio.wait([newer])


async def test_a_fallback_that_raises_is_an_error_of_its_step(kafka: str):
    async with running(app, kafka) as system:
        (result,) = await results_of([await system.client.submit(unlucky, 1)])
        assert (result.status, result.error_type) == ("failed", "HandlerError")
        assert "the fallback of tool:breaks raised LookupError: no fallback for error" in result.error_message
