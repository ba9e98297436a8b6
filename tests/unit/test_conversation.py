"""Windows and recaps over a log, and what reading a long one costs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from streams import App, Context, InvalidInput, Log, Recap, condense, pages, window
from streams.agents.state import StateShape, StateView, log_entry
from streams.testing import Simulation

LENGTH = 100_000


class Talk(BaseModel):
    lines: Log[str] = Log()
    recap: Recap = Recap()


def talk(length: int, read: list[int] | None = None) -> Any:
    """A state whose log has so many entries; the positions that are read are noted."""

    def entry(name: str, position: int) -> bytes:
        assert log_entry(name, position) == f"lines#{position:012d}"
        if read is not None:
            read.append(position)
        return f'"{position}"'.encode()

    return StateShape(Talk).load(StateView({}, {"lines": length}, entry))[0]


async def test_a_window_reads_what_it_returns():
    read: list[int] = []
    state = talk(LENGTH, read)
    assert await window(state.lines, entries=3) == ["99997", "99998", "99999"]
    assert sorted(read) == [99_997, 99_998, 99_999]
    assert await window(state.lines, entries=250, after=LENGTH - 2) == ["99998", "99999"]
    assert len(await window(state.lines, entries=250)) == 250


async def test_a_window_is_bounded_by_size():
    state = talk(12)
    assert await window(state.lines, entries=100, size=5, size_of=len) == ["9", "10", "11"]
    assert await window(state.lines, entries=100, size=4, size_of=len) == ["10", "11"]
    assert await window(state.lines, entries=100, size=1, size_of=len) == []


async def test_a_log_of_many_entries_is_read_by_page_each_entry_once():
    read: list[int] = []
    state = talk(LENGTH, read)
    seen = [line async for line in pages(state.lines, size=1_000)]
    assert seen == [str(position) for position in range(LENGTH)]
    assert read == list(range(LENGTH))
    part = [line async for line in pages(state.lines, start=5, stop=12, size=3)]
    assert part == ["5", "6", "7", "8", "9", "10", "11"]


async def test_a_recap_is_renewed_when_enough_is_not_covered_and_never_reads_twice():
    read: list[int] = []
    state = talk(50, read)
    calls: list[list[str]] = []

    async def summarize(before: str, entries: list[str]) -> str:
        calls.append(entries)
        return f"{before}+{len(entries)}"

    recap = await condense(state.lines, Recap(), summarize, keep=10, at=40, size=30)
    assert recap == Recap(text="+30+10", upto=40)
    assert [len(entries) for entries in calls] == [30, 10]
    assert await condense(state.lines, recap, summarize, keep=10, at=40) is recap
    for number in range(40):
        state.lines.append(f"new {number}")
    again = await condense(state.lines, recap, summarize, keep=10, at=40)
    assert again == Recap(text="+30+10+40", upto=80)
    assert read == list(range(50))


async def nothing(before: str, entries: list[Any]) -> str:
    raise AssertionError("nothing is to be summarized")


@pytest.mark.parametrize(
    "call",
    [
        lambda log: window(log, entries=0),
        lambda log: window(log, entries=1, after=6),
        lambda log: condense(log, Recap(), nothing, keep=4, at=4),
        lambda log: condense(log, Recap(), nothing, keep=1, at=4, size=0),
        lambda log: anext(pages(log, start=3, stop=9)),
        lambda log: anext(pages(log, size=0)),
    ],
)
async def test_bounds_that_make_no_sense_are_refused(call):
    with pytest.raises(InvalidInput):
        await call(talk(5).lines)


async def test_an_agent_talks_for_long():
    app = App("talks")
    fast = app.model("fast", fallback="nothing")

    class Line(BaseModel):
        customer: str
        text: str

    @app.agent(key="customer", state=Talk)
    async def chat(ctx: Context[Talk], line: Line) -> list[str]:
        async def summarize(before: str, entries: list[str]) -> str:
            return (await fast.chat(f"{before} {' '.join(entries)}")).text

        ctx.state.lines.append(line.text)
        ctx.state.recap = await condense(ctx.state.lines, ctx.state.recap, summarize, keep=2, at=5)
        return [ctx.state.recap.text, *await window(ctx.state.lines, entries=10, after=ctx.state.recap.upto)]

    async with Simulation(
        app, models={"fast": lambda request: f"<{request.messages[-1]['content'].strip()}>"}
    ) as simulation:
        simulation.kill_every_step()
        for number in range(8):
            result = await simulation.invoke(chat, Line(customer="ann", text=f"l{number}"))
        assert result.value == ["<<l0 l1 l2> l3 l4 l5>", "l6", "l7"]
