"""The same crowd before the same limits: this dispatcher, LiteLLM's router, and a semaphore with retries."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import openai

from streams.llm.openai import OpenAIProvider
from tests.bench.dispatch_http import dispatcher, mock, report, request, seen

PER_MINUTE = 1_800
BURST_S = 2.0
CONCURRENCY = 20
LATENCY_S = 0.1
CROWD = 450
INSTALL_S = 120.0
RUN_S = 90.0


async def crowd() -> None:
    """Print a line for each."""
    await _contest("this dispatcher", _ours)
    await _contest("semaphore and 5 retries", _semaphore)
    with tempfile.TemporaryDirectory() as folder:
        python, problem = await _install(Path(folder))
        if python is None:
            report(case="crowd at a limit", by="LiteLLM router", not_run=problem)
            return
        await _contest("LiteLLM router", lambda url: _litellm(python, url))


async def _contest(name: str, send: Any) -> None:
    limits = {"requests_per_minute": PER_MINUTE, "concurrency": CONCURRENCY, "burst_s": BURST_S}
    async with mock(limits=limits, latency_p50_s=LATENCY_S) as url, httpx2.AsyncClient(base_url=url) as http:
        started = time.perf_counter()
        said = await send(f"{url}/v1")
        took_s = said.pop("took_s", time.perf_counter() - started)
        counted = await seen(http)
    allowed = PER_MINUTE * (took_s + BURST_S) / 60
    report(
        case="crowd at a limit", by=name, asked=CROWD, took_s=took_s, rejected_429=counted["rejected_429"],
        of_limit=counted["by_status"].get("200", 0) / allowed, **said,
    )  # fmt: skip


async def _ours(url: str) -> dict[str, Any]:
    provider, chance = OpenAIProvider(url), random.Random(1)
    one = dispatcher(provider, 1, requests_per_minute=PER_MINUTE, concurrency=CONCURRENCY, burst_s=BURST_S * 0.75)
    results = await asyncio.gather(*(one.answer(request(n, chance)) for n in range(CROWD)))
    await provider.close()
    return {"ok": sum(result.status == "ok" for result in results), "failures": {}}


async def _semaphore(url: str) -> dict[str, Any]:
    places, failures = asyncio.Semaphore(CONCURRENCY), dict[str, int]()
    async with openai.AsyncOpenAI(api_key="k0", base_url=url, max_retries=5) as client:

        async def ask(number: int) -> bool:
            async with places:
                try:
                    messages: Any = [{"role": "user", "content": f"{number} write 5"}]
                    await client.chat.completions.create(model="m", messages=messages, max_completion_tokens=25)
                except openai.APIError as error:
                    failures[type(error).__name__] = failures.get(type(error).__name__, 0) + 1
                    return False
                return True

        done = await asyncio.gather(*(ask(number) for number in range(CROWD)))
    return {"ok": sum(done), "failures": failures}


async def _litellm(python: Path, url: str) -> dict[str, Any]:
    script = Path(__file__).with_name("_litellm_router.py")
    arguments = [str(script), url, str(PER_MINUTE), str(CONCURRENCY), str(CROWD)]
    code, out, err = await _run([str(python), *arguments], RUN_S)
    if code != 0:
        return {"ok": 0, "failures": {}, "not_run": err[-300:]}
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


async def _install(folder: Path) -> tuple[Path | None, str]:
    """Make an environment with LiteLLM; return its interpreter, or None and why there is none."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    python = folder / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "litellm"],
    ):
        try:
            code, _, err = await _run(command, INSTALL_S)
        except OSError as error:
            return None, f"uv is not there: {error}"
        if code != 0:
            return None, f"LiteLLM cannot be installed: {err[-300:].strip()}"
    return python, ""


async def _run(command: list[str], limit_s: float) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, "", f"not done in {limit_s:g} s"
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
