"""What users put into records, and a hook that seals it before it is written anywhere and opens it when it is read.

Sealed are the fields that carry users' values: inputs, arguments, answers, state, results, signals, streamed text. In
the clear stay names, IDs, times, versions, digests and messages of errors, since routing, metrics and operators need
them. Without a hook nothing is done and nothing is paid.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from streams.errors import CodecError
from streams.records.invocations import Invocation, Result
from streams.records.journal import Completion
from streams.records.signals import Answer, SharedOutcome, SharedRequest, Signal, StateWrite
from streams.records.state import StateDelta
from streams.records.steps import LlmRequest, LlmResult, TokenChunk, ToolCall, ToolResult

MARK = b"\x00sealed\x01"
"""What a sealed payload begins with; no JSON does, so that what was written in the clear stays readable."""

TEXT_MARK = MARK.decode()

PAYLOADS: Mapping[type[Any], tuple[str, ...]] = {
    Invocation: ("input",),
    Result: ("value",),
    Signal: ("value",),
    StateWrite: ("value",),
    SharedRequest: ("value",),
    SharedOutcome: ("value",),
    Answer: ("value",),
    ToolCall: ("arguments",),
    ToolResult: ("value",),
    LlmRequest: ("request",),
    LlmResult: ("value",),
    TokenChunk: ("text",),
    StateDelta: ("value",),
    Completion: ("value",),
}
"""Fields by record. What carries other records encoded (journal entries, markers, dead letters) carries them sealed."""


class PayloadCodec(Protocol):
    """Seals and opens payloads. Called often, from one thread; must not block."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Return *data* sealed; *context* (record and field) must be the same for opening."""
        ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            UnknownSchema: With a key that this process does not have.
            CodecError: It was changed, or is of another context.
        """
        ...


class Payloads:
    """Applies a codec to the payload fields of records, and to single values."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec

    def encoder(self, kind: type[Any], encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
        """Return an encoder of *kind* that seals first."""
        fields = PAYLOADS[kind]
        contexts = {name: _context(kind, name) for name in fields}

        def sealing(record: Any) -> bytes:
            sealed = {name: self.seal(getattr(record, name), contexts[name]) for name in fields}
            return encode(replace(record, **sealed))

        return sealing

    def decoder(self, kind: type[Any], decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Return a decoder of *kind* that opens afterwards."""
        fields = PAYLOADS[kind]
        contexts = {name: _context(kind, name) for name in fields}

        def opening(data: bytes) -> Any:
            record = decode(data)
            return replace(record, **{name: self.open(getattr(record, name), contexts[name]) for name in fields})

        return opening

    def seal(self, value: Any, context: bytes) -> Any:
        """Return a value sealed: bytes or text; None stays None."""
        if value is None:
            return None
        if isinstance(value, str):
            return TEXT_MARK + b85encode(self._codec.seal(value.encode(), context)).decode()
        return MARK + self._codec.seal(value, context)

    def open(self, value: Any, context: bytes) -> Any:
        """Return what was sealed; a value in the clear as it is."""
        if isinstance(value, str):
            if not value.startswith(TEXT_MARK):
                return value
            try:
                sealed = b85decode(value[len(TEXT_MARK) :])
            except ValueError as error:
                raise CodecError(f"a sealed text is damaged: {error}") from None
            return self._codec.open(sealed, context).decode()
        if not isinstance(value, bytes) or not value.startswith(MARK):
            return value
        return self._codec.open(value[len(MARK) :], context)


def _context(kind: type[Any], name: str) -> bytes:
    return f"{kind.__name__}.{name}".encode()
