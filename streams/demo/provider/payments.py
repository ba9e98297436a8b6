"""How the mock provider settles a dispute of the payments demo: by the rules of `streams.demo.domain`, to the letter.

The case is read from the messages wherever it is: JSON objects, nested or side by side, with or without words around
them, are recognised by the fields that a dispute, an account and its orders have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from streams.demo.domain import AccountStatus, Decision, Dispute, Order, Orders, Receipt, ruling
from streams.demo.provider.answers import Answer, AskedTool, Json, text_of

_DECODER = json.JSONDecoder()


def settle(messages: Sequence[Json], tools: Sequence[Json]) -> Answer | None:
    """Return the next turn in settling a dispute; None if the messages are about something else."""
    dispute, account, orders, receipt = _read(messages)
    if dispute is None:
        return None
    account = account or AccountStatus(status="unknown")
    order = orders.find(dispute.order) if orders else None
    action = ruling(account, order)
    refund = next((tool["function"] for tool in tools if tool["function"]["name"] == "refund"), None)
    if action != "refund" or order is None:
        reason = f"account {account.status}, order {_describe(order)}"
        return _decide(Decision(action=action, reason=reason, status=account.status, status_version=account.version))
    if receipt is None and refund is not None:
        known = {"customer": dispute.customer, "order": order.id, "cents": order.cents}
        wanted = refund.get("parameters", {}).get("properties", known)
        arguments = {name: value for name, value in known.items() if name in wanted}
        return Answer(tool_calls=(AskedTool("refund", arguments),))
    paid = receipt is not None and receipt.state == "refunded"
    reason = f"refund {receipt.state}: {receipt.reason}" if receipt else "no tool to refund with"
    return _decide(
        Decision(
            action="refund" if paid else "escalate",
            reason=reason,
            status=account.status,
            status_version=account.version,
        )
    )


def _decide(decision: Decision) -> Answer:
    return Answer(decision.model_dump_json())


def _describe(order: Order | None) -> str:
    if order is None:
        return "not listed"
    return "refundable" if order.refundable else "not refundable"


def _read(
    messages: Sequence[Json],
) -> tuple[Dispute | None, AccountStatus | None, Orders | None, Receipt | None]:
    dispute: Dispute | None = None
    account: AccountStatus | None = None
    orders: Orders | None = None
    receipt: Receipt | None = None
    for message in messages:
        if message["role"] in ("system", "developer", "assistant"):
            continue
        answers_a_tool = message["role"] == "tool"
        before = receipt
        for found in _objects(text_of(message)):
            try:
                if {"customer", "order", "text"} <= found.keys():
                    dispute = Dispute.model_validate(found)
                elif {"status", "version"} <= found.keys():
                    account = AccountStatus.model_validate(found)
                elif isinstance(found.get("orders"), list):
                    orders = Orders.model_validate(found)
                elif answers_a_tool and "state" in found:
                    receipt = Receipt.model_validate(found)
            except ValidationError:
                continue
        if answers_a_tool and receipt is before and _is_refund(messages, message):
            # An error told to the model instead of a receipt: what happened is not known.
            receipt = Receipt(state="unconfirmed", reason=text_of(message)[:200])
    return dispute, account, orders, receipt


def _is_refund(messages: Sequence[Json], answered: Json) -> bool:
    calls = (call for m in messages for call in m.get("tool_calls") or ())
    return any(call["id"] == answered["tool_call_id"] and call["function"]["name"] == "refund" for call in calls)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield from _nested(value)
        at = text.find("{", end)


def _nested(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield value
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _nested(inner)
