"""What type checkers infer for users; checked by mypy, never run: `assert_type` fails when an answer changes."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from streams import (
    AgentState,
    App,
    Client,
    Context,
    Failure,
    InvocationResult,
    Log,
    Outcome,
    Reply,
    SharedRecords,
    Versioned,
    window,
)
from streams.client.handle import Handle

app = App("typing")


class Dispute(BaseModel):
    customer: str


class Decision(BaseModel):
    action: str


class Receipt(BaseModel):
    state: str


class Customer(BaseModel):
    last: str = ""
    entries: Log[str] = Log()


def unconfirmed(failure: Failure, customer: str, cents: int) -> Receipt:
    return Receipt(state=failure.reason)


@app.tool(timeout=5, effect="read", fallback="unknown")
async def status(customer: str) -> str:
    return customer


@app.tool(timeout=5, effect="read", fallback=None)
async def maybe(customer: str) -> str:
    return customer


@app.tool(timeout=5, effect="at-most-once", fallback_fn=unconfirmed)
async def refund(customer: str, cents: int) -> Receipt:
    return Receipt(state=customer)


@app.tool(timeout=5, effect="read", fallback=0)
def count(customer: str) -> int:
    return len(customer)


fast = app.model("fast", fallback="later")
rate = app.http_tool("rate", url="http://rates.example/{day}", returns=float, timeout=5, effect="read", fallback=None)
helper = app.react("helper", key="customer", instructions="Help.", model=fast, tools=[status, rate])


@app.agent(key="customer", state=Customer)
async def dispute(ctx: Context[Customer], request: Dispute) -> Decision:
    assert_type(await status(request.customer), str)
    assert_type(await maybe(request.customer), str | None)
    assert_type(await refund(request.customer, cents=3), Receipt)
    assert_type(await count(request.customer), int)
    assert_type(await refund.outcome(request.customer, 3), Outcome[Receipt])
    assert_type(await rate(day="monday"), float | None)
    assert_type(await fast.chat("hello"), Reply[str])
    assert_type((await fast.chat("hello", output=Decision)).output, Decision)
    assert_type(ctx.state, Customer)
    assert_type(await ctx.state.entries.page(), list[str])
    assert_type(await ctx.signal("approval", bool, timeout=5), bool)
    risk = ctx.shared("risk", int)
    assert_type(await risk.read("c"), Versioned[int | None])
    assert_type(await risk.update("c", lambda score: (score or 0) + 1), Versioned[int])
    assert_type(await risk.write("c", 1, expected=None), dict[str, int])
    assert_type(ctx.shared("anything"), SharedRecords[Any])
    assert_type(await window(ctx.state.entries, entries=3), list[str])
    assert_type(await dispute(Dispute(customer="other")), Decision)
    assert_type(await dispute.start(Dispute(customer="other")), str)
    return Decision(action="none")


async def caller() -> None:
    async with Client(app) as client:
        handle = await client.submit(dispute, Dispute(customer="c"))
        assert_type(handle, Handle[Decision])
        result = await handle.result(timeout=5)
        assert_type(result, InvocationResult[Decision])
        assert_type(result.value, Decision)
        assert_type(await client.shared("risk", int).read("c"), Versioned[int | None])
        assert_type(await client.state("dispute/c").read(), AgentState)
