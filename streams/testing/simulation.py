"""Trying agents without Kafka: fakes instead of tools and models, a clock that jumps, a process that dies when told.

The engine is the one that shards run. What it wants written is kept here as its journal would keep it, and a kill drops
everything else, so that what a test shows after a kill is what a restart would show.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Self, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter

from streams.agents.agent import Agent
from streams.app import App
from streams.client.outcome import InvocationResult
from streams.errors import ConfigurationError, HandlerError, UnknownInvocation
from streams.records import decode, decode_as
from streams.records.ids import agent_id, invocation_id
from streams.records.invocations import Invocation, Result
from streams.records.signals import Cancel, Signal
from streams.records.steps import LlmRequest, LlmResult, ToolCall, ToolResult
from streams.shards.effects import Event, ShardLimits, Write
from streams.shards.engine import Engine
from streams.shards.live import PARKED
from streams.shards.status import describe_live
from streams.testing.fakes import Call, FakeModel, Fakes, FakeTool
from streams.testing.journal import KeptJournal

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

START_S = 1_767_225_600.0
MAX_TRANSACTIONS = 100_000


class StillWaiting(AssertionError):
    """An invocation waits for something that the test has to give, or is parked; the message says for what."""


class Simulation:
    """One shard with its agents, in memory and in virtual time.

    Args:
        tools: A function for each tool that is called; `{"refund": refund.local}` runs the declared one.
        models: For each model a text, a response, or a function of the request.
        seconds: Virtual seconds that a call of a tool or model takes; none unless named.
        limits: Bounds of the shard; `ShardLimits(max_hot=1)` lets every handler but one be run again for each event.

    Attributes:
        kills: How often the process has died.
        transactions: How many steps the shard has made; a kill happens in one of them.

    Example:
        >>> import asyncio
        >>> from pydantic import BaseModel
        >>> from streams import App, Context
        >>> from streams.testing import Simulation
        >>> app = App("shop")
        >>> class Order(BaseModel):
        ...     customer: str
        ...     cents: int
        >>> class Customer(BaseModel):
        ...     spent: int = 0
        >>> @app.tool(timeout=5, effect="at-most-once", fallback="unknown")
        ... async def charge(cents: int) -> str: ...
        >>> @app.agent(key="customer", state=Customer)
        ... async def buy(ctx: Context[Customer], order: Order) -> str:
        ...     receipt = await charge(order.cents)
        ...     await asyncio.sleep(86_400)
        ...     ctx.state.spent += order.cents
        ...     return receipt
        >>> async def test_a_crash_at_any_step_charges_once() -> None:
        ...     async with Simulation(app, tools={"charge": lambda cents: f"r-{cents}"}) as simulation:
        ...         simulation.kill_every_step()
        ...         result = await simulation.invoke(buy, Order(customer="ada", cents=250))
        ...         assert result.value == "r-250"
        ...         assert simulation.state(buy, "ada").spent == 250
        ...         assert [call.arguments for call in simulation.calls] == [{"cents": 250}]
        ...         assert simulation.kills >= 3
        >>> asyncio.run(test_a_crash_at_any_step_charges_once())
    """

    def __init__(
        self,
        app: App,
        *,
        tools: Mapping[str, FakeTool] | None = None,
        models: Mapping[str, FakeModel] | None = None,
        seconds: Mapping[str, float] | None = None,
        limits: ShardLimits | None = None,
    ) -> None:
        self.kills = 0
        self.transactions = 0
        self._app = app
        self._fakes = Fakes(app, tools or {}, models or {}, seconds or {})
        self._limits = limits or ShardLimits()
        self._journal = KeptJournal()
        self._now = START_S
        self._events: deque[Event] = deque()
        self._under_way: list[tuple[float, int, ToolResult | LlmResult]] = []
        self._numbers = count(1)
        self._kill_at: set[int] = set()
        self._kill_always = False
        self._results: dict[str, Result] = {}
        self._engine = self._new_engine()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop handlers that still wait."""
        self._engine.close()

    # -- what a test does ----------------------------------------------------------------------------------------------

    async def invoke(self, agent: Agent[I, O], request: I, **options: Any) -> InvocationResult[O]:
        """Submit an invocation and run it to its end; timers make the clock jump.

        Args:
            options: As for `submit`.

        Raises:
            StillWaiting: It needs a signal, or is parked. Use `submit`, `run`, `signal` and `result` instead.
            ConfigurationError: It called a tool or model that has no fake.
        """
        identity = await self.submit(agent, request, **options)
        await self.run()
        return self.result(identity, agent)

    async def submit(
        self, agent: Agent[I, O], request: I, *, idempotency_key: str | None = None, deadline: float = 31_536_000.0
    ) -> str:
        """Submit an invocation and return its ID; `run` lets it go on.

        Args:
            idempotency_key: The same one with the same input is the same invocation.
            deadline: Seconds until it is ended as failed.
        """
        key, data = agent.encode_input(request)
        name = idempotency_key or f"n{next(self._numbers)}"
        identity = invocation_id(agent.name, key, name)
        now_ms = int(self._now * 1000)
        self._arrive("invocations", Invocation(agent.name, key, name, data, now_ms, now_ms + int(deadline * 1000)))
        return identity

    async def signal(self, invocation: str, name: str, value: Any = None, *, signal_id: str | None = None) -> None:
        """Send a signal, before or after the handler waits for it; `run` delivers it."""
        data = TypeAdapter(Any).dump_json(value)
        identity = signal_id or f"signal-{next(self._numbers)}"
        self._arrive("signals", Signal(invocation, name, data, identity, int(self._now * 1000)))

    async def cancel(self, invocation: str, reason: str = "cancelled by the test") -> None:
        """Ask an invocation to end; `run` delivers it."""
        self._arrive("signals", Cancel(invocation, reason, "test", int(self._now * 1000)))

    async def run(self, seconds: float | None = None) -> None:
        """Let everything happen that can.

        Args:
            seconds: Virtual seconds that pass. None lets as many pass as timers and calls need, but no deadline.

        Raises:
            ConfigurationError: A tool or model was called that has no fake.
        """
        until = None if seconds is None else self._now + seconds
        for _ in range(MAX_TRANSACTIONS):
            if self._events:
                await self._transact((self._events.popleft(),))
                continue
            at = self._next(until)
            if at is None:
                break
            self._now = max(self._now, at)
            if self._under_way and self._under_way[0][0] <= self._now:
                self._arrive("results", heapq.heappop(self._under_way)[2])
            else:
                await self._transact(())
        else:
            raise HandlerError(f"not at rest after {MAX_TRANSACTIONS:,} steps; look for an agent that never ends")
        if until is not None:
            self._now = until

    def result(self, invocation: str, agent: Agent[I, O] | None = None) -> InvocationResult[O]:
        """Return the result of an invocation.

        Raises:
            StillWaiting: There is none yet.
            UnknownInvocation: It was never submitted.
        """
        record = self._results.get(invocation)
        if record is not None:
            known = (
                agent or self._app.agents[record.agent][record.version or next(iter(self._app.agents[record.agent]))]
            )
            return InvocationResult(record, known.output)
        live = self._engine.live.get(invocation)
        if live is None:
            raise UnknownInvocation(f"{invocation} was never submitted here, or has not been run yet; call run() first")
        if live.phase == PARKED:
            raise StillWaiting(f"{invocation} is parked: {live.reason}")
        waits = orjson.dumps(describe_live(live, 0, self._now)["waits_for"]).decode()
        raise StillWaiting(f"{invocation} waits for {waits}; give it, then call run() again")

    def state(self, agent: Agent[Any, Any], key: str) -> Any:
        """Return the state of an agent instance, as its next invocation would see it.

        Raises:
            ConfigurationError: The agent was declared without `state=`.
        """
        if agent.state is None:
            raise ConfigurationError(f"agent {agent.name!r} has no state; declare it with state=Model")
        model: BaseModel = agent.state.load(self._engine.state.view(agent_id(agent.name, key)))[0]
        return model

    def kill_at(self, *transactions: int) -> None:
        """Kill the process in these steps of the shard (from 1), after computing them and before they are durable."""
        self._kill_at.update(transactions)

    def kill_every_step(self) -> None:
        """Kill the process once in every step from now on."""
        self._kill_always = True

    def interrupt(self, tool: str) -> None:
        """Let the worker die in the next call of *tool*, after its effect and before its result is known.

        An at-most-once tool is not called again: its outcome is `interrupted`, and its fallback applies.
        """
        self._fakes.interrupted.append(tool)

    @property
    def calls(self) -> list[Call]:
        """Calls that the fakes have had, in order."""
        return self._fakes.calls

    @property
    def now_s(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now - START_S

    # -- the shard -----------------------------------------------------------------------------------------------------

    def _new_engine(self) -> Engine:
        engine = Engine(self._app, partition=0, partition_of=lambda _: 0, limits=self._limits)
        self._journal.restore(engine, self._now)
        return engine

    def _next(self, until: float | None) -> float | None:
        """When something happens next: a call ends, a timer rings; a deadline only if time is let pass."""
        calls = self._under_way[0][0] if self._under_way else None
        wake = self._engine.next_wake
        if until is None and wake is not None and not self._engine_wants(wake):
            wake = None
        times = [at for at in (calls, wake) if at is not None and (until is None or at <= until)]
        return min(times, default=None)

    def _engine_wants(self, wake: float) -> bool:
        return any(
            live.wake_at_s == wake and live.invocation.deadline_ms / 1000 > wake for live in self._engine.live.values()
        )

    async def _transact(self, events: Iterable[Event]) -> None:
        self.transactions += 1
        if self._kill_always or self.transactions in self._kill_at:
            await _from_a_callback(lambda: self._engine.step(events, self._now))
            self._engine.close()
            self._engine = self._new_engine()
            self.kills += 1
        writes = await _from_a_callback(lambda: self._engine.step(events, self._now))
        self._journal.keep(writes, self._engine)
        for write in writes:
            await self._carry_out(write)

    async def _carry_out(self, write: Write) -> None:
        match write.kind:
            case "results":
                result = decode_as(Result, write.value or b"")
                if result.error_type != "Conflict" or result.id not in self._results:
                    self._results[result.id] = result
            case "inbox":
                self._arrive("inbox", decode(write.value or b""))
            case "tool-calls":
                call = decode(write.value or b"")
                if isinstance(call, ToolCall):  # or it is called off: a fake has ended by then
                    self._later(*await self._fakes.call_tool(call, self.now_s))
            case "llm-requests":
                request = decode_as(LlmRequest, write.value or b"")
                self._later(*await self._fakes.ask_model(request, self.now_s))

    def _arrive(self, kind: str, record: Any) -> None:
        self._events.append(Event(kind, record))

    def _later(self, seconds: float, result: ToolResult | LlmResult) -> None:
        heapq.heappush(self._under_way, (self._now + seconds, next(self._numbers), result))


async def _from_a_callback(step: Callable[[], list[Write]]) -> list[Write]:
    """Run *step* outside of any task: a handler's tasks and the test's must not be in each other's way."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Write]] = loop.create_future()

    def run() -> None:
        try:
            done.set_result(step())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon(run)
    return await done
