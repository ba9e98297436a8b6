"""The application that every simulation runs: agents that interpret programs, tools whose effects the world counts.

`deploy` gives it in two states of a rolling deploy: the older lacks a version of one agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any
from zlib import crc32

from pydantic import BaseModel

from streams import App, Context, Log, call_info
from streams.errors import AgentDeadlock, HandlerError
from tests.simulation.sharing import share

Program = list[Any]


class Ask(BaseModel):
    """Input of every agent."""

    key: str
    program: Program
    tag: str = ""


class Reply(BaseModel):
    """What a handler saw and did; the oracle compares it with a serial execution."""

    chain: int
    count: int
    notes: int
    amount: int = 0
    noted: int = 0
    bag: dict[str, int] = {}
    bagged: dict[str, int] = {}
    seen: list[Any] = []


class Memory(BaseModel):
    """State of an agent instance; `chain` links every invocation that has succeeded."""

    chain: int = 0
    count: int = 0
    bag: dict[str, int] = {}
    notes: Log[str] = Log()


class Declined(Exception):
    """An answer of `pay` that crosses to the agent."""


def link(chain: int, invocation: str) -> int:
    """Return the chain after one more invocation."""
    return crc32(invocation.encode(), chain)


@dataclass(slots=True)
class Outside:
    """What the tools act on: it survives every process.

    Attributes:
        effects: (invocation, site) to the times that an at-most-once effect has happened.
        flaky: Probability that a tool fails.
    """

    random: Random = field(default_factory=Random)
    effects: dict[tuple[str, str], int] = field(default_factory=dict)
    calls: int = 0
    flaky: float = 0.05

    async def delay(self, longest_s: float = 0.05) -> None:
        """Take a while."""
        self.calls += 1
        await asyncio.sleep(self.random.random() * longest_s)

    def fails(self) -> bool:
        """Draw whether it fails now."""
        return self.random.random() < self.flaky


outside = Outside()
"""Of the world that runs now; there is one at a time in a process."""


@dataclass(slots=True)
class Work:
    """What one handler has done so far."""

    seen: list[Any] = field(default_factory=list)
    amount: int = 0
    noted: int = 0
    tag: str = ""
    versions: dict[str, Any] = field(default_factory=dict)


class Interpreter:
    """Runs programs with the agents and tools of one deploy."""

    def __init__(self, tools: dict[str, Any], model: Any) -> None:
        self.agents: dict[str, Any] = {}
        self._tools = tools
        self._model = model

    async def run(self, ctx: Context[Memory], program: Program, work: Work, path: str = "") -> None:
        """Do what a program says, one operation after the other."""
        for operation in program:
            kind, *rest = operation
            if kind in self._tools:
                await self._tool(kind, f"{rest[0]}{path}", work)
            else:
                do: Callable[..., Awaitable[None]] = getattr(self, f"_{kind}")
                await do(ctx, work, path, *rest)

    async def _tool(self, name: str, site: str, work: Work) -> None:
        try:
            outcome = await self._tools[name].outcome(site)
            work.seen.append([name, site, outcome.value, outcome.cause])
            work.amount += max(0, outcome.value)
        except Declined as error:
            work.seen.append([name, site, "declined", str(error)])

    async def _chat(self, ctx: Any, work: Work, path: str, site: str) -> None:
        reply = await self._model.chat(f"{site}{path}")
        work.seen.append(["chat", site, reply.text])

    async def _sleep(self, ctx: Any, work: Work, path: str, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _add(self, ctx: Any, work: Work, path: str, amount: int) -> None:
        work.amount += amount

    async def _note(self, ctx: Any, work: Work, path: str, site: str) -> None:
        ctx.state.notes.append(f"{work.tag}:{site}{path}")
        work.noted += 1

    async def _bag(self, ctx: Any, work: Work, path: str, site: str) -> None:
        ctx.state.bag[site] = ctx.state.bag.get(site, 0) + 1

    async def _shared(self, ctx: Any, work: Work, path: str, what: str, key: str, site: str) -> None:
        await share(ctx, work.seen, work.versions, what, key, f"{ctx.invocation_id}:{site}{path}")

    async def _rng(self, ctx: Any, work: Work, path: str, site: str) -> None:
        work.seen.append(["rng", round(ctx.random(), 6), str(ctx.uuid()), round(ctx.now().timestamp(), 3)])

    async def _patched(self, ctx: Any, work: Work, path: str, site: str) -> None:
        if ctx.patched(site):
            work.seen.append(["patched", site])

    async def _raise(self, ctx: Any, work: Work, path: str, site: str) -> None:
        raise ValueError(f"told to fail at {site}")

    async def _deny(self, ctx: Any, work: Work, path: str, site: str) -> None:
        work.seen.append("x")
        raise HandlerError(f"told to deny at {site}")

    async def _gather(self, ctx: Any, work: Work, path: str, branches: list[Program]) -> None:
        runs = (self.run(ctx, branch, work, f"{path}.{n}") for n, branch in enumerate(branches))
        for outcome in await asyncio.gather(*runs, return_exceptions=True):
            work.seen.append(type(outcome).__name__)

    async def _group(self, ctx: Any, work: Work, path: str, branches: list[Program]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number, branch in enumerate(branches):
                    group.create_task(self.run(ctx, branch, work, f"{path}.{number}"))
        except* Exception as errors:
            work.seen.append(sorted(type(error).__name__ for error in errors.exceptions))

    async def _race(self, ctx: Any, work: Work, path: str, branches: list[Program]) -> None:
        runs = [asyncio.ensure_future(self.run(ctx, branch, work, f"{path}.{n}")) for n, branch in enumerate(branches)]
        done, rest = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        for run in rest:
            run.cancel()
        if rest:
            await asyncio.wait(rest)
        work.seen.append([len(done), [type(run.exception()).__name__ for run in done]])

    async def _timeout(self, ctx: Any, work: Work, path: str, seconds: float, program: Program) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.run(ctx, program, work, path)
        except TimeoutError:
            work.seen.append("timeout")

    async def _repeat(self, ctx: Any, work: Work, path: str, times: int, program: Program) -> None:
        for number in range(times):
            await self.run(ctx, program, work, f"{path}+{number}")

    async def _cleanup(self, ctx: Any, work: Work, path: str, program: Program, site: str) -> None:
        try:
            await self.run(ctx, program, work, path)
        finally:
            await self._tool("pay", f"{site}{path}", work)

    async def _child(self, ctx: Any, work: Work, path: str, agent: str, key: str, program: Program) -> None:
        try:
            reply: Reply = await self.agents[agent](Ask(key=key, program=program))
            work.seen.append(["child", agent, key, reply.chain])
            work.amount += reply.amount
        except HandlerError as error:
            work.seen.append(["child", type(error).__name__])

    async def _start(self, ctx: Any, work: Work, path: str, agent: str, key: str, program: Program) -> None:
        await self.agents[agent].start(Ask(key=key, program=program))

    async def _deadlock(self, ctx: Any, work: Work, path: str, agent_id: str) -> None:
        agent, _, key = agent_id.partition("/")
        try:
            await self.agents[agent](Ask(key=key, program=[]))
        except AgentDeadlock:
            work.seen.append("deadlock")
            return
        raise AssertionError(f"{agent_id} called itself without a deadlock")

    async def _signal(self, ctx: Any, work: Work, path: str, name: str, count: int, timeout: float | None) -> None:
        try:
            values = [await ctx.signal(name, int, timeout=timeout) for _ in range(count)]
            work.seen.append(["signal", name, values])
        except TimeoutError:
            work.seen.append(["signal", name, []])


@cache
def deploy(*, newest: bool) -> App:
    """Return the application, with or without the newest version of `alpha` and the newer `reader`."""
    app = App("sim")
    tools: dict[str, Any] = {}

    @app.tool(timeout=30, effect="read", fallback=-1, max_wait=10_000, concurrency=2)
    async def peek(site: str) -> int:
        await outside.delay()
        if outside.fails():
            raise OSError("flaky")
        return len(site)

    @app.tool(timeout=60, effect="read", fallback=-1, max_wait=10_000, concurrency=1, hedge=1.0)
    async def slow(site: str) -> int:
        await outside.delay(2.0)
        return 1

    @app.tool(timeout=0.3, effect="read", fallback=-1, max_wait=10_000, attempts=1, concurrency=1)
    async def hang(site: str) -> int:
        await outside.delay(0.6)
        return 2

    @app.tool(timeout=30, effect="idempotent", fallback=-1, max_wait=10_000, concurrency=1, rate="50/s")
    async def store(site: str) -> int:
        await outside.delay()
        if outside.fails():
            raise OSError("flaky")
        return 3

    @app.tool(timeout=30, effect="at-most-once", fallback=-1, max_wait=10_000, concurrency=2, raises=(Declined,))
    async def pay(site: str) -> int:
        await outside.delay(0.01)
        info = call_info()
        assert info is not None
        identity = (info.invocation_id, site)
        outside.effects[identity] = outside.effects.get(identity, 0) + 1
        await outside.delay(0.1)
        if outside.fails():
            raise Declined(site)
        if outside.fails():
            raise OSError("lost")
        return 5

    for tool in (peek, slow, hang, store, pay):
        tools[tool.name] = tool
    model = app.model("fast", fallback="nothing to say")
    interpreter = Interpreter(tools, model)

    async def handler(ctx: Context[Memory], request: Ask) -> Reply:
        state, work = ctx.state, Work(tag=ctx.invocation_id)
        reply = Reply(chain=state.chain, count=state.count, notes=len(state.notes), bag=dict(state.bag))
        await interpreter.run(ctx, request.program, work)
        assert len(await state.notes.page(size=10_000)) == reply.notes + work.noted
        state.chain = link(state.chain, ctx.invocation_id)
        state.count += work.amount
        done = {"amount": work.amount, "noted": work.noted, "seen": work.seen, "bagged": dict(state.bag)}
        return reply.model_copy(update=done)

    async def reader(ctx: Context[Memory], request: Ask) -> Reply:
        state, work = ctx.state, Work(tag=ctx.invocation_id)
        await interpreter.run(ctx, request.program, work)
        notes = await state.notes.page(size=10_000)
        return Reply(chain=state.chain, count=state.count, notes=len(notes), seen=work.seen)

    for name in ("alpha", "beta", "gamma"):
        versions = ("1", "2") if name == "alpha" and newest else ("1",)
        for version in versions:
            interpreter.agents[name] = app.agent(key="key", state=Memory, name=name, version=version)(handler)
    # The newest deploy turns delta into a reader that runs beside the writers that the older one has begun.
    app.agent(key="key", state=Memory, name="delta", version="1")(handler)
    if newest:
        app.agent(key="key", state=Memory, name="delta", version="2", concurrent=True)(reader)
    return app
