"""What operators say to breakers: orders on `outcomes`, which the control plane follows and nobody else.

An order is a record beside the digests, so it reaches the one writer of its dependency. It is sent again until
`breakers` shows that it was followed; it is followed once, however often it comes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Literal

from streams.breakers.feed import breakers_table, partitions_of
from streams.breakers.settings import FORMS, is_dependency
from streams.broker.port import Broker, Message
from streams.broker.table import read_to_end
from streams.errors import CodecError, ControlSilent, InvalidInput
from streams.records.codec import decode_as, encode
from streams.records.control import BreakerPhase, BreakerState
from streams.records.headers import internal
from streams.records.signals import Order
from streams.records.topics import Catalogue

log = logging.getLogger(__name__)

Action = Literal["open", "close", "reset", "metrics-only"]
PHASE_OF: Mapping[str, BreakerPhase] = {
    "open": "forced-open",
    "close": "forced-closed",
    "reset": "closed",
    "metrics-only": "metrics-only",
}
"""The phase that an order sets; `closed` hands the breaker back to its machine."""

RESEND_S = 2.0


async def give_order(
    broker: Broker,
    catalogue: Catalogue,
    action: Action,
    dependency: str,
    *,
    by: str,
    reason: str,
    now_ms: int,
    timeout_s: float = 15.0,
    order_id: str = "",
) -> BreakerState:
    """Give an order and return the fleet's state once it was followed.

    Args:
        dependency: `tool:<name>`, `llm:<pool>` or `postgres`.
        by, reason: Who gives it and why; both are kept in the record.
        order_id: The same one is followed once; by default a new one.

    Raises:
        InvalidInput: *dependency* has not the form of one, or *by* or *reason* is empty.
        ControlSilent: It was not followed within *timeout_s*.
        BrokerError: The log is away.
    """
    if not is_dependency(dependency):
        raise InvalidInput(f"{dependency!r} is not a dependency; write {FORMS}")
    if not (by.strip() and reason.strip()):
        raise InvalidInput(f"an order on {dependency} needs who gives it and why; by and reason must not be empty")
    order = Order(action, dependency, reason, by, now_ms, request_id=order_id or uuid.uuid4().hex)
    followed: asyncio.Future[BreakerState] = asyncio.get_running_loop().create_future()

    def look(state: BreakerState) -> None:
        if state.dependency == dependency and order.request_id in state.orders and not followed.done():
            followed.set_result(state)

    message = Message(catalogue.name("outcomes"), dependency.encode(), encode(order), None, internal("order"))
    try:
        async with asyncio.timeout(timeout_s), breakers_table(broker, catalogue, look), broker.producer() as producer:
            while not followed.done():
                await producer.send(message)
                await asyncio.wait([followed], timeout=RESEND_S)
            return followed.result()
    except TimeoutError:
        raise ControlSilent(
            f"the control plane did not follow the order on {dependency} within {timeout_s:g} s; it is on "
            f"{message.topic} and will be followed when `streams run --role control` runs again, within the hour "
            "for which that topic is kept"
        ) from None


async def read_states(broker: Broker, catalogue: Catalogue) -> dict[str, BreakerState]:
    """Return what `breakers` holds, by dependency. A dependency that never left `closed` has no record."""
    states: dict[str, BreakerState] = {}
    async for batch in read_to_end(broker, partitions_of(catalogue, "breakers")):
        for record in batch:
            name = (record.key or b"").decode("utf-8", "replace")
            if record.value is None:
                states.pop(name, None)
                continue
            try:
                states[name] = decode_as(BreakerState, record.value)
            except CodecError as error:
                log.warning("the record of %s cannot be read: %s", name, error)
    return dict(sorted(states.items()))
