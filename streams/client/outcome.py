"""The result of an invocation, as its caller sees it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import orjson
from pydantic import TypeAdapter

from streams.errors import InvocationFailed
from streams.llm.messages import Tokens
from streams.records.invocations import Result

T = TypeVar("T")


class InvocationResult(Generic[T]):
    """How an invocation ended.

    Attributes:
        invocation_id: Which one.
        status: `succeeded`, `failed`, `cancelled` or `deferred` (refused for now; submit it again).
        degraded: At least one step was answered by a fallback.
        repeated: It had finished before; this is the same result again.
        usage: Tokens and cost of its model calls.
        steps: Durable operations that the handler awaited.
        error_type: Class name of its error; empty when it succeeded.
        error_field: The input field that the error is about, where there is one.
        retry_after_s: With `deferred`, when to come back.
    """

    def __init__(self, record: Result, adapter: TypeAdapter[Any] | None = None) -> None:
        self._record = record
        self._adapter = adapter
        self.invocation_id = record.id
        self.status = record.status
        self.degraded = record.degraded
        self.repeated = record.repeated
        self.usage = Tokens(record.input_tokens, record.output_tokens, record.cost)
        self.steps = record.steps
        self.error_type = record.error_type
        self.error_message = record.error_message
        self.error_field = record.error_field
        self.retry_after_s = record.retry_after_s

    @property
    def succeeded(self) -> bool:
        """There is a value."""
        return self.status == "succeeded"

    @property
    def value(self) -> T:
        """What the handler returned.

        Raises:
            InvocationFailed: It did not succeed.
        """
        if not self.succeeded:
            raise InvocationFailed(self.invocation_id, self.status, self.error_type, self.error_message)
        data = self._record.value or b"null"
        value: T = self._adapter.validate_json(data) if self._adapter is not None else orjson.loads(data)
        return value

    @property
    def record(self) -> Result:
        """The record of the result topic."""
        return self._record

    def __repr__(self) -> str:
        return f"InvocationResult({self.invocation_id!r}, {self.status!r})"
