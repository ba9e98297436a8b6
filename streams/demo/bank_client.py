"""How the demo's tools and its oracle reach the bank."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel

from streams.demo.domain import AccountStatus, Orders, Receipt
from streams.demo.oracle import Ledger

_Model = TypeVar("_Model", bound=BaseModel)


class BankClient:
    """Calls a bank at *base_url*; used as an async context manager.

    Every method raises `httpx2.HTTPError` when the bank does not answer within *timeout_s*, or answers an error.
    """

    def __init__(self, base_url: str, timeout_s: float = 5.0) -> None:
        self._http = httpx2.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=64),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def account_status(self, customer: str) -> AccountStatus:
        """Return an account's status now."""
        return await self._get(AccountStatus, f"accounts/{quote(customer, safe='')}")

    async def orders(self, customer: str, order: str) -> Orders:
        """Return an order, among others of the customer."""
        return await self._get(Orders, f"accounts/{quote(customer, safe='')}/orders?order={quote(order, safe='')}")

    async def refund(self, customer: str, order: str, cents: int, key: str = "") -> Receipt:
        """Pay an order back. Never safe to repeat: the bank ignores *key* except for recording it."""
        answer = await self._http.post(
            "refunds", json={"customer": customer, "order": order, "cents": cents, "key": key}
        )
        return Receipt.model_validate_json(answer.raise_for_status().content)

    async def ledger(self) -> Ledger:
        """Return all changes and refunds until now, for the oracle."""
        return await self._get(Ledger, "ledger")

    async def _get(self, model: type[_Model], path: str) -> _Model:
        answer = await self._http.get(path)
        return model.model_validate_json(answer.raise_for_status().content)
