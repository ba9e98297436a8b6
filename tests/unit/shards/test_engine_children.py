"""Agents that call agents, and readers beside writers."""

from pydantic import BaseModel

from streams import App, Context, Log
from streams.errors import AgentDeadlock, ChildFailed
from tests.unit.shards.shard import Shard


class Ask(BaseModel):
    key: str = "a"
    text: str = ""


class Memory(BaseModel):
    count: int = 0
    notes: Log[str] = Log()


app = App("children")


@app.tool(timeout=5, effect="read", fallback=-1)
async def look(text: str) -> int:
    raise NotImplementedError


@app.agent(key="key")
async def leaf(ctx: Context[None], ask: Ask) -> str:
    if ask.text == "fail":
        raise ValueError("told to")
    return f"{ask.text}!"


@app.agent(key="key")
async def parent(ctx: Context[None], ask: Ask) -> str:
    try:
        return await leaf(ask)
    except ChildFailed as error:
        return f"{error.error_type} of {error.invocation_id.rpartition('/')[0]}"


@app.agent(key="key")
async def starter(ctx: Context[None], ask: Ask) -> str:
    return await leaf.start(ask)


@app.agent(key="key")
async def loops(ctx: Context[None], ask: Ask) -> str:
    if ask.text == "inner":
        try:
            return await loops(Ask(key="outer"))
        except AgentDeadlock as error:
            return str(error)
    return await loops(Ask(key="inner", text="inner"))


def test_a_parent_gets_what_its_child_returns_over_a_restart():
    shard = Shard(app)
    shard.invoke(parent, Ask(text="hi"))
    shard.restart()
    shard.deliver()
    assert [(r.agent, r.value) for r in shard.results] == [("leaf", b'"hi!"'), ("parent", b'"hi!"')]


def test_a_failed_child_is_named():
    shard = Shard(app)
    shard.invoke(parent, Ask(text="fail"))
    shard.deliver()
    assert shard.results[-1].value == b'"ValueError of leaf/a"'


def test_a_started_child_goes_on_by_itself():
    shard = Shard(app)
    shard.invoke(starter, Ask(text="hi"))
    assert (shard.results[0].value or b"").startswith(b'"leaf/a/child-')
    shard.deliver()
    assert [r.agent for r in shard.results] == ["starter", "leaf"]


def test_a_chain_that_comes_back_is_a_deadlock_at_once():
    shard = Shard(app)
    shard.invoke(loops, Ask(key="outer"))
    shard.deliver()
    assert b"loops/outer -> loops/inner -> loops/outer" in (shard.results[-1].value or b"")


def test_children_are_bounded_in_depth():
    shard = Shard(app, max_depth=0)
    shard.invoke(parent, Ask(text="hi"))
    assert [(r.status, r.error_type) for r in shard.results] == [("failed", "HandlerError")]


def deploys() -> tuple[App, App]:
    """Return a deploy where the ledger writes, and a newer one that reads beside the older's writers."""
    old, new = App("ledger"), App("ledger")

    async def writes(ctx: Context[Memory], ask: Ask) -> int:
        ctx.state.count += 1
        ctx.state.notes.append(ask.text)
        return await look(ask.text)

    async def reads(ctx: Context[Memory], ask: Ask) -> list[int]:
        before = ctx.state.count
        await look(ask.text)
        return [before, ctx.state.count, len(await ctx.state.notes.page())]

    for deploy in (old, new):
        deploy.tools["look"] = look
        deploy.agent(key="key", name="ledger", version="1", state=Memory)(writes)
    new.agent(key="key", name="ledger", version="2", state=Memory, concurrent=True)(reads)
    return old, new


def test_a_reader_sees_the_state_that_it_began_with_whatever_others_write():
    old, new = deploys()
    shard = Shard(old, chunk_bytes=10)
    agent = old.latest("ledger")
    shard.invoke(agent, Ask(text="one"), "w1")
    shard.answer(shard.calls[0])
    shard.invoke(agent, Ask(text="two"), "w2")
    shard.restart(new)
    for number in range(2):
        shard.invoke(new.latest("ledger"), Ask(text="read"), f"r{number}")
    shard.answer(shard.calls[1])
    shard.restart(new)
    for call in shard.calls[2:4]:
        shard.answer(call)
    assert [r.value for r in shard.results] == [b"1", b"1", b"[1,1,1]", b"[1,1,1]"]
    assert set(shard.journal.latest) == {b"\x00cursor", *(r.id.encode() for r in shard.results)}
