"""An app whose tools act on a dependency outside of all processes, for workers that are killed and stopped."""

from __future__ import annotations

import asyncio
import os
import threading

from streams import App, Context, Failure, call_info

app = App("effects")


def unconfirmed(failure: Failure, *_: object, **__: object) -> str:
    return f"unconfirmed: {failure.cause}"


async def _tell(what: str) -> str:
    """Tell the dependency of the call's key and return its answer, which takes it a while."""
    info = call_info()
    assert info is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["EFFECTS_PORT"]))
    try:
        writer.write(f"{what} {info.idempotency_key}\n".encode())
        await writer.drain()
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


@app.tool(timeout=20, effect="at-most-once", fallback_fn=unconfirmed, concurrency=3)
async def pay() -> str:
    return await _tell("pay")


@app.tool(timeout=20, effect="idempotent", fallback_fn=unconfirmed, concurrency=3)
async def store() -> str:
    return await _tell("store")


@app.tool(timeout=0.2, effect="at-most-once", fallback_fn=unconfirmed)
def never_returns() -> str:
    threading.Event().wait()
    return ""


@app.tool(timeout=0.5, effect="read", fallback="nobody answered", max_wait=0.5)
async def unattended() -> str:
    return "answered"


def broken(failure: Failure) -> str:
    raise LookupError(f"no fallback for {failure.cause}")


@app.tool(timeout=5, effect="read", fallback_fn=broken, attempts=1)
async def breaks() -> str:
    raise OSError("out of order")


@app.agent(key=lambda number: str(number))
async def payer(ctx: Context[None], number: int) -> list[str]:
    return list(await asyncio.gather(pay(), store()))


@app.agent(key=lambda number: str(number))
async def stuck(ctx: Context[None], number: int) -> str:
    return await never_returns()


@app.agent(key=lambda number: str(number))
async def alone(ctx: Context[None], number: int) -> str:
    outcome = await unattended.outcome()
    return f"{outcome.value}, {outcome.cause}"


@app.agent(key=lambda number: str(number))
async def parent(ctx: Context[None], number: int) -> str:
    return await alone(number)


@app.agent(key=lambda number: str(number))
async def unlucky(ctx: Context[None], number: int) -> str:
    return await breaks()
