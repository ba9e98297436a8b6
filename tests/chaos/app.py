"""The application that is tormented: shops that take orders and post them to ledgers.

An order reads a price, asks a model, waits for an approval now and then, pays (at most once), sleeps, and posts to a
ledger, an agent that many orders share. Everything that it saw goes into its result, so that the verifier can tell from
the results alone what the state must be. `CHAOS_VERSIONS` says which versions of the handler a process has.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from typing import Literal

from pydantic import BaseModel

from streams import App, Context, Failure, Log, call_info

VERSIONS_VARIABLE = "CHAOS_VERSIONS"
EFFECTS_VARIABLE = "CHAOS_EFFECTS"
APPROVAL = "approval"

app = App("chaos")


class Order(BaseModel):
    """Input of the agent `shop`."""

    number: int
    customer: str
    cents: int
    ledger: str
    needs_approval: bool = False


class Receipt(BaseModel):
    """What paying gave.

    Attributes:
        key: Of the call that paid; empty when nobody knows whether it did.
    """

    state: Literal["paid", "unconfirmed"]
    key: str = ""


class Confirmation(BaseModel):
    """Result of the agent `shop`: what it did, and the state that it found."""

    number: int
    version: str
    orders_before: int
    chain_before: str
    price_cents: int
    said: str
    approved: int
    receipt: Receipt
    posting: int


class Posting(BaseModel):
    """Input of the agent `ledger`."""

    ledger: str
    order: str
    cents: int


class Posted(BaseModel):
    """Result of the agent `ledger`."""

    position: int
    total_before: int
    order: str
    cents: int


class Customer(BaseModel):
    """State of a customer's shop."""

    orders: int = 0
    spent_cents: int = 0
    chain: str = ""
    history: Log[str] = Log()


class Book(BaseModel):
    """State of a ledger."""

    postings: int = 0
    total_cents: int = 0
    entries: Log[str] = Log()


def link(chain: str, order: str) -> str:
    """Return the chain of digests, one order longer: it tells any two histories apart."""
    return hashlib.blake2b(f"{chain}|{order}".encode(), digest_size=8).hexdigest()


def unconfirmed(failure: Failure, customer: str, cents: int) -> Receipt:
    """Say that the payment may or may not have happened."""
    return Receipt(state="unconfirmed")


@app.tool(timeout=5, effect="read", fallback=0)
async def price(cents: int) -> int:
    """Return what something costs."""
    await asyncio.sleep(random.uniform(0.0, 0.02))
    return cents


@app.tool(timeout=10, effect="at-most-once", fallback_fn=unconfirmed)
async def pay(customer: str, cents: int) -> Receipt:
    """Pay: one line in a file that survives this process, whoever kills it and when."""
    call = call_info()
    assert call is not None
    await asyncio.sleep(random.uniform(0.0, 0.03))
    line = f"{call.idempotency_key}\t{customer}\t{cents}\t{os.getpid()}\t{time.time():.3f}\n"
    file = os.open(os.environ[EFFECTS_VARIABLE], os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    await asyncio.sleep(random.uniform(0.0, 0.03))
    return Receipt(state="paid", key=call.idempotency_key)


fast = app.model("fast", fallback="no model")


@app.agent(key="ledger", state=Book)
async def ledger(ctx: Context[Book], request: Posting) -> Posted:
    """Post one order."""
    posted = Posted(
        position=ctx.state.postings, total_before=ctx.state.total_cents, order=request.order, cents=request.cents
    )
    ctx.state.postings += 1
    ctx.state.total_cents += request.cents
    ctx.state.entries.append(request.order)
    return posted


async def take(ctx: Context[Customer], request: Order, version: str) -> Confirmation:
    """Take an order; the second version asks for the price a second time."""
    orders_before, chain_before = ctx.state.orders, ctx.state.chain
    cents, reply = await asyncio.gather(price(request.cents), fast.chat(f"order {request.number}"))
    if version == "2":
        cents = max(cents, await price(request.cents))
    approved = await ctx.signal(APPROVAL, int, timeout=600) if request.needs_approval else 0
    receipt = await pay(request.customer, request.cents)
    await asyncio.sleep(0.05 + 0.2 * ctx.random())
    posted = await ledger(Posting(ledger=request.ledger, order=ctx.invocation_id, cents=request.cents))
    ctx.state.orders += 1
    ctx.state.spent_cents += request.cents if receipt.state == "paid" else 0
    ctx.state.chain = link(chain_before, ctx.invocation_id)
    ctx.state.history.append(ctx.invocation_id)
    return Confirmation(
        number=request.number,
        version=version,
        orders_before=orders_before,
        chain_before=chain_before,
        price_cents=cents,
        said=reply.output,
        approved=approved,
        receipt=receipt,
        posting=posted.position,
    )


def _declare(version: str) -> None:
    @app.agent(name="shop", key="customer", state=Customer, version=version)
    async def shop(ctx: Context[Customer], request: Order) -> Confirmation:
        return await take(ctx, request, version)


for _version in os.environ.get(VERSIONS_VARIABLE, "1").split(","):
    _declare(_version)
