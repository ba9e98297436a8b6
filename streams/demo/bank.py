"""The bank of the demo, over HTTP: statuses, orders, refunds, and the ledger that the oracle reads.

    GET  /accounts/{customer}                   AccountStatus at this moment
    GET  /accounts/{customer}/orders?order=ID   Orders: the one asked for, between two others
    POST /refunds                               {customer, order, cents, key} -> Receipt
    GET  /ledger                                Ledger: every change and refund until now
    POST /control                               {latency_s, outage}: slow it down, or answer 503
    POST /reset                                 forget refunds and who was asked for; statuses go on

Refunds are never deduplicated, whatever key comes with them: a refund that was asked for twice happens twice, and is
seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.demo.accounts import Change, World
from streams.demo.asgi import Receive, Scope, Send, read_body, send_bytes, send_json
from streams.demo.domain import AccountStatus, Receipt
from streams.demo.oracle import Ledger, Refund


class RefundRequest(BaseModel):
    """Body of `POST /refunds`."""

    model_config = ConfigDict(extra="forbid")

    customer: str = Field(min_length=1)
    order: str = Field(min_length=1)
    cents: int = Field(gt=0)
    key: str = ""


class BankFaults(BaseModel):
    """Body of `POST /control`; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_s: float = Field(default=0.0, ge=0)
    outage: bool = False


class Bank:
    """An ASGI app around a `World`.

    Args:
        world: Accounts and orders.
        clock: Seconds since the epoch.
    """

    def __init__(self, world: World, clock: Callable[[], float] = time.time) -> None:
        self.world = world
        self._clock = clock
        self._schedules: dict[str, tuple[list[Change], Iterator[Change]]] = {}
        self._refunds: list[Refund] = []
        self._faults = BankFaults()

    def status(self, customer: str) -> AccountStatus:
        """Return an account's status now."""
        change = self._changes(customer, self._clock())[-1]
        return AccountStatus(status=change.status, version=change.version)

    def refund(self, request: RefundRequest) -> Receipt:
        """Pay, and record it."""
        self._refunds.append(Refund(at=self._clock(), **request.model_dump()))
        return Receipt(state="refunded", reason=f"{request.cents} cents for {request.order}")

    def ledger(self) -> Ledger:
        """Return everything until now."""
        now = self._clock()
        changes = [change for customer in sorted(self._schedules) for change in self._changes(customer, now)]
        return Ledger(read_at=now, world=self.world, changes=tuple(changes), refunds=tuple(self._refunds))

    def _changes(self, customer: str, now: float) -> list[Change]:
        # Kept, with the next one to come: a bank that stands for days would otherwise replay them for each request.
        if customer not in self._schedules:
            self._schedules[customer] = [], self.world.schedule(customer)
        known, coming = self._schedules[customer]
        while len(known) < 2 or known[-1].valid_from <= now:
            known.append(next(coming))
        return known[:-1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        method = scope["method"]
        parts = [unquote(part) for part in scope["path"].removeprefix(scope.get("root_path", "")).split("/") if part]
        try:
            match method, parts:
                case "POST", ["control"]:
                    changes = BankFaults.model_validate_json(body).model_dump(exclude_unset=True)
                    self._faults = self._faults.model_copy(update=changes)
                    await send_json(send, 200, self._faults.model_dump())
                case "POST", ["reset"]:
                    self._schedules, self._refunds, self._faults = {}, [], BankFaults()
                    await send_json(send, 200, {})
                case "GET", ["ledger"]:
                    await send_bytes(send, 200, self.ledger().model_dump_json().encode())
                case _:
                    await self._serve(method, parts, scope["query_string"], body, send)
        except ValidationError as error:
            problems = orjson.loads(error.json(include_url=False, include_context=False))
            await send_json(send, 422, {"error": "invalid", "problems": problems})

    async def _serve(self, method: str, parts: list[str], query: bytes, body: bytes, send: Send) -> None:
        if self._faults.latency_s:
            await asyncio.sleep(self._faults.latency_s)
        if self._faults.outage:
            await send_json(send, 503, {"error": "the bank is closed (POST /control {outage: false} opens it)"})
            return
        answer: BaseModel
        match method, parts:
            case "GET", ["accounts", customer]:
                answer = self.status(customer)
            case "GET", ["accounts", customer, "orders"]:
                order = parse_qs(query.decode()).get("order", [f"{customer}-first"])[0]
                answer = self.world.orders(customer, order)
            case "POST", ["refunds"]:
                answer = self.refund(RefundRequest.model_validate_json(body))
            case _:
                await send_json(send, 404, {"error": f"nothing at {method} /{'/'.join(parts)}"})
                return
        await send_bytes(send, 200, answer.model_dump_json().encode())
