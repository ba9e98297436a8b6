"""The payments demo: an agent that settles disputes, with three tools at a bank that is somebody else's service.

Run it with `streams demo`, or `streams dev streams.demo.app:app` to play with it.
"""

from __future__ import annotations

import os
from functools import cache

from pydantic import BaseModel

from streams import App, Context, Failure, Log, call_info
from streams.demo.bank_client import BankClient
from streams.demo.domain import AccountStatus, Decision, Dispute, Orders, Receipt, conversation
from streams.errors import HandlerError

BANK_VARIABLE = "PAYMENTS_BANK_URL"

app = App("payments")


@cache
def bank() -> BankClient:
    """Return this process's connection to the bank."""
    address = os.environ.get(BANK_VARIABLE)
    if not address:
        raise HandlerError(f"{BANK_VARIABLE} is not set; start the demo with `streams demo` or `streams dev`")
    return BankClient(address)


def unconfirmed(failure: Failure, customer: str, order: str, cents: int) -> Receipt:
    """Say that a refund may or may not have happened."""
    return Receipt(state="unconfirmed", reason=failure.reason)


@app.tool(timeout=5, effect="read", fallback=AccountStatus(status="unknown"))
async def account_status(customer: str) -> AccountStatus:
    """Return the status of a customer's account, now."""
    return await bank().account_status(customer)


@app.tool(timeout=5, effect="read", fallback=Orders())
async def orders(customer: str, order: str) -> Orders:
    """Return a customer's orders around the one that is disputed."""
    return await bank().orders(customer, order)


@app.tool(timeout=10, effect="at-most-once", fallback_fn=unconfirmed)
async def refund(customer: str, order: str, cents: int) -> Receipt:
    """Refund an order to the customer's account."""
    call = call_info()
    return await bank().refund(customer, order, cents, call.idempotency_key if call else "")


def escalated(failure: Failure) -> Decision:
    """Hand a dispute to a person when no model can answer."""
    return Decision(action="escalate", reason=f"no model: {failure.reason}", status="unknown", status_version=0)


fast = app.model("fast", fallback_fn=escalated)


class Customer(BaseModel):
    """What the agent remembers of a customer."""

    disputes: int = 0
    last_status: str = "unknown"
    decisions: Log[str] = Log()


@app.agent(key="customer", state=Customer)
async def dispute(ctx: Context[Customer], request: Dispute) -> Decision:
    """Settle one dispute: look at the account, let the model decide, refund if it asks for that."""
    status = await account_status(request.customer)
    found = await orders(request.customer, request.order)
    messages = conversation(request, status, found)
    reply = await fast.chat(messages, tools=[refund], output=Decision)
    if reply.tool_calls:
        messages += [reply.message, *await reply.run_tools()]
        reply = await fast.chat(messages, tools=[refund], output=Decision)
    decision = reply.output
    ctx.state.disputes += 1
    ctx.state.last_status = status.status
    ctx.state.decisions.append(f"{request.order}: {decision.action}")
    return decision
