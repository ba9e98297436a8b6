"""The pure engine on one core: three-step runs, their records encoded; and what an invocation of many steps costs.

Events go in, and what comes out is answered, in batches as they would gather under load. Calls, journal and results
leave encoded; decoding what arrives is measured apart, reading and writing topics is not in it. Seconds are the CPU's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from streams.agents.context import Context
from streams.app import App
from streams.cli.roles import collect_rarely
from streams.records import decode, encode
from streams.records.invocations import Invocation
from streams.records.steps import LlmRequest, LlmResult, ToolCall, ToolResult
from streams.shards.effects import Event, ShardLimits, Write
from streams.shards.engine import Engine
from tests.bench.load import AGENTS, PAYLOAD

RUNS, BATCH, ROUNDS = 4_000, 200, 3
LONG_STEPS = 10_000
ANSWER = json.dumps(PAYLOAD).encode()
REPLY = json.dumps({"text": PAYLOAD, "tool_calls": [], "finish_reason": "stop"}).encode()
START_MS = 1_700_000_000_000

app = App("bench")
fast = app.model("fast", fallback="no answer")


@dataclass(slots=True)
class Spent:
    """CPU seconds."""

    decode_s: float = 0.0
    step_s: float = 0.0


class Work(BaseModel):
    """What a run is asked."""

    customer: str
    text: str = PAYLOAD


class Memory(BaseModel):
    """State of an agent instance."""

    runs: int = 0
    last: str = ""


@app.tool(timeout=30, effect="read", fallback="no answer")
async def look_up(customer: str) -> str:
    """Answer at once."""
    return PAYLOAD


@app.agent(key="customer")
async def three_steps(ctx: Context[None], work: Work) -> str:
    """Model, tool, model."""
    await fast.chat(PAYLOAD)
    await look_up(work.customer)
    return (await fast.chat(PAYLOAD)).text


@app.agent(key="customer", state=Memory)
async def remembering(ctx: Context[Memory], work: Work) -> str:
    """The same, and two records of state."""
    await fast.chat(PAYLOAD)
    await look_up(work.customer)
    text = (await fast.chat(PAYLOAD)).text
    ctx.state.runs += 1
    ctx.state.last = text
    return text


@app.agent(key="customer")
async def many_steps(ctx: Context[None], work: Work) -> int:
    """So many tool calls, one after the other."""
    for _ in range(int(work.text)):
        await look_up(work.customer)
    return int(work.text)


async def run() -> None:
    """Print the lines of `engine` and `engine_long`."""
    collect_rarely()
    print(json.dumps(three(RUNS, ROUNDS)), flush=True)
    print(json.dumps(long_invocation(LONG_STEPS)), flush=True)


def three(runs: int, rounds: int) -> dict[str, Any]:
    """Return the figures of three-step runs: the best of several rounds, in seconds of this thread's CPU."""
    plain = [_measure("three_steps", runs) for _ in range(rounds)]
    step_s, decode_s = (min(getattr(spent, name) for spent in plain) for name in ("step_s", "decode_s"))
    with_state_s = min(_measure("remembering", runs).step_s for _ in range(rounds))
    return {
        "bench": "engine",
        "runs": runs,
        "runs_per_s": round(runs / step_s),
        "us_per_run": round(step_s / runs * 1e6, 1),
        "decoding_us_per_run": round(decode_s / runs * 1e6, 1),
        "with_state_runs_per_s": round(runs / with_state_s),
    }


def long_invocation(steps: int) -> dict[str, Any]:
    """Return what one invocation of *steps* steps writes, against one of a tenth of them: the same a step if O(N)."""
    few_bytes, few_s = _long(steps // 10)
    all_bytes, all_s = _long(steps)
    return {
        "bench": "engine_long",
        "steps": steps,
        "journal_bytes_per_step": round(all_bytes / steps),
        "bytes_growth": round(all_bytes / few_bytes / 10, 3),
        "us_per_step": round(all_s / steps * 1e6, 1),
        "time_growth": round(all_s / few_s / 10, 3),
    }


def _long(steps: int) -> tuple[int, float]:
    engine, spent, journal = new_engine(), Spent(), 0
    for batch in drive(engine, [invocation("many_steps", 0, str(steps))], spent):
        journal += sum(len(write.value or b"") for write in batch if write.kind == "journal")
    return journal, spent.step_s


def _measure(agent: str, runs: int) -> Spent:
    """Run so many runs; agents of one batch are different ones, as most are in a shard under load."""
    engine, spent = new_engine(), Spent()
    for start in range(0, runs, BATCH):
        batch = [invocation(agent, number) for number in range(start, min(runs, start + BATCH))]
        for _ in drive(engine, batch, spent):
            pass
    if engine.counters.finished != {"succeeded": runs}:
        raise AssertionError(f"of {runs} runs there ended {engine.counters.finished}")
    return spent


def drive(engine: Engine, arrived: list[bytes], spent: Spent) -> Iterator[list[Write]]:
    """Step an engine until nothing is left to answer; yield the writes of each step."""
    now = max(engine.now, START_MS / 1000)
    kind = "invocations"
    while arrived:
        now += 0.001
        started = time.thread_time()
        events = [Event(kind, decode(data), data if kind == "invocations" else b"") for data in arrived]
        decoded = time.thread_time()
        writes = engine.step(events, now)
        spent.decode_s += decoded - started
        spent.step_s += time.thread_time() - decoded
        yield writes
        arrived = [encode(answer) for write in writes if (answer := answer_to(write)) is not None]
        kind = "tool-results"


def answer_to(write: Write) -> ToolResult | LlmResult | None:
    """Return the answer to a call; None where a write is none."""
    if write.value is None or write.kind not in ("tool-calls", "llm-requests"):
        return None
    call: ToolCall | LlmRequest = decode(write.value)
    if isinstance(call, ToolCall):
        return ToolResult(call.invocation, call.incarnation, call.step, call.tool, "ok", ANSWER, worker="bench")
    return LlmResult(
        call.invocation, call.incarnation, call.step, call.model, "ok", REPLY, input_tokens=75, output_tokens=75
    )


def new_engine() -> Engine:
    """Return an engine that owns every agent."""
    return Engine(app, partition=0, partition_of=lambda agent: 0, limits=ShardLimits())


def invocation(agent: str, number: int, text: str = PAYLOAD, *, agents: int = AGENTS) -> bytes:
    """Return an encoded invocation of one of so many agents."""
    key = f"agent-{number % agents}"
    data = orjson.dumps({"customer": key, "text": text})
    return encode(Invocation(agent, key, f"run-{number:028d}", data, START_MS, START_MS + 3_600_000))
