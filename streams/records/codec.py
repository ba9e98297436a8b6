"""Records to bytes and back: Avro single-object encoding.

Two marker bytes, the schema's 8-byte CRC-64 fingerprint, the body (Avro 1.11, "Single-object encoding"). A record is
decoded with the schema that its fingerprint names and resolved to the current one, so that old records stay readable.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint, to_parsing_canonical_form

from streams.errors import CodecError, UnknownSchema
from streams.records import allotments, control, invocations, journal, signals, state, steps
from streams.records.avro import schema_of
from streams.records.compiled import (
    compile_decoder,
    compile_encoder,
    compile_field_encoder,
    compile_init,
)
from streams.records.payloads import PAYLOADS, PayloadCodec, Payloads

MARKER = b"\xc3\x01"
_HEAD_BYTES = 10

P = ParamSpec("P")
R = TypeVar("R")

RECORDS: tuple[type[Any], ...] = tuple(
    record
    for module in (invocations, signals, steps, state, journal, control, allotments)
    for record in vars(module).values()
    if dataclasses.is_dataclass(record) and isinstance(record, type) and record.__module__ == module.__name__
)
"""Every record that flows, in the order of the modules that define them."""


def encode(record: Any) -> bytes:
    """Return the single-object encoding of a record.

    Raises:
        CodecError: A field does not fit its schema.
    """
    kind = type(record)
    try:
        return _FAST_ENCODERS[kind](record)
    except Exception:
        encoder = _ENCODERS.get(kind)
    if encoder is None:
        raise CodecError(f"{kind.__name__} is not a record; known are {_names()}")
    return encoder(record)


def encode_read(record: Any, raw: bytes) -> bytes:
    """Return the encoding of a record read from *raw*: that itself, unless its schema is old or it is to be sealed.

    Args:
        raw: Empty where the record was made otherwise.
    """
    return raw if raw and _payloads is None and holds(type(record), raw) else encode(record)


def encoder_of(kind: Callable[P, Any]) -> Callable[P, bytes]:
    """Return a function that takes the fields of a record of type *kind* and returns the record's encoding.

    For records that are written and then forgotten: making one costs more than encoding it.
    """
    record = cast(type[Any], kind)
    return compile_field_encoder(record, _HEADS[record], encode, sealing if record in PAYLOADS else _never)


def decode(data: bytes) -> Any:
    """Return the record in *data*, whatever its type; told by the fingerprint.

    Raises:
        UnknownSchema: The fingerprint is not known here; it may be from a newer version.
        CodecError: Not single-object encoding, or a body that does not fit its schema.
    """
    fast = _FAST_DECODERS.get(data[:_HEAD_BYTES])
    if fast is not None:
        try:
            return fast(data)
        except Exception:
            pass  # not the ordinary encoding, or damaged: fastavro tells which
    if data[:2] != MARKER or len(data) < _HEAD_BYTES:
        raise CodecError(
            f"{len(data)} bytes starting with {data[:4].hex() or 'nothing'} are not an Avro single object (c301)"
        )
    decoder = _DECODERS.get(data[2:10])
    if decoder is None:
        raise UnknownSchema(
            f"schema fingerprint {data[2:10].hex()} is not known to this version; deploy the version that wrote it"
        )
    try:
        return decoder(data)
    except UnknownSchema:
        raise  # sealed with a key that is not here
    except Exception as error:
        raise CodecError(
            f"body of schema {data[2:10].hex()} cannot be read: {type(error).__name__}: {error}"
        ) from error


def decode_as(kind: type[R], data: bytes) -> R:
    """Return the record in *data*, which must be of type *kind*.

    Raises:
        CodecError: It is another record, or no record (see `decode`).
    """
    record = decode(data)
    if type(record) is not kind:
        raise CodecError(f"expected {kind.__name__}, got {type(record).__name__}")
    return record


def holds(kind: type[Any], data: bytes) -> bool:
    """Tell whether *data* is a record of type *kind* in its current schema, without decoding it."""
    return data[:_HEAD_BYTES] == _HEADS[kind]


def fingerprint_of(schema: Any) -> bytes:
    """Return the 8 bytes, little endian, by which single-object encoding names a schema."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def schema_files(folder: str = "") -> list[Path]:
    """Return the `.avsc` files of a folder of `schemas/`, from the checkout or from the installed package."""
    beside = Path(__file__).parents[2] / "schemas"
    root = beside if beside.is_dir() else Path(str(resources.files("streams") / "_schemas"))
    return sorted((root / folder).glob("*.avsc"))


def _make_encoder(record: type[Any], schema: Any, head: bytes) -> Callable[[Any], bytes]:
    names = tuple(field.name for field in dataclasses.fields(record))
    values = attrgetter(*names)

    def encode_one(value: Any) -> bytes:
        buffer = io.BytesIO()
        buffer.write(head)
        try:
            # Otherwise a tuple in a field that may be None is taken for fastavro's (name of the type, value).
            schemaless_writer(buffer, schema, dict(zip(names, values(value), strict=True)), disable_tuple_notation=True)
        except Exception as error:
            raise CodecError(f"{record.__name__} cannot be encoded: {type(error).__name__}: {error}") from error
        return buffer.getvalue()

    return encode_one


def _make_decoder(record: type[Any], writer: Any, reader: Any) -> Callable[[bytes], Any]:
    lists = tuple(f.name for f in dataclasses.fields(record) if str(f.type).startswith("tuple["))

    def decode_one(data: bytes) -> Any:
        buffer = io.BytesIO(data)
        buffer.seek(_HEAD_BYTES)
        fields: Any = schemaless_reader(buffer, writer, reader)
        if buffer.tell() != len(data):
            raise ValueError(f"{len(data) - buffer.tell()} bytes follow the record")
        for name in lists:
            if fields[name] is not None:
                fields[name] = tuple(fields[name])
        return record(**fields)

    return decode_one


def _register() -> tuple[dict[type[Any], Callable[[Any], bytes]], dict[bytes, Callable[[bytes], Any]]]:
    encoders: dict[type[Any], Callable[[Any], bytes]] = {}
    decoders: dict[bytes, Callable[[bytes], Any]] = {}
    by_name = {record.__name__: (record, parse_schema(schema_of(record))) for record in RECORDS}
    for record, schema in by_name.values():
        name = fingerprint_of(schema)
        encoders[record] = _make_encoder(record, schema, MARKER + name)
        decoders[name] = _make_decoder(record, schema, None)
        _NAMES_BY_FINGERPRINT[name] = record.__name__
    for path in schema_files("released"):
        old: Any = parse_schema(json.loads(path.read_text(encoding="utf-8")))
        known = by_name.get(str(old["name"]).rpartition(".")[2])
        if known is not None:
            decoders.setdefault(fingerprint_of(old), _make_decoder(known[0], old, known[1]))
            _NAMES_BY_FINGERPRINT[fingerprint_of(old)] = known[0].__name__
    return encoders, decoders


def _names() -> str:
    return ", ".join(record.__name__ for record in RECORDS)


_NAMES_BY_FINGERPRINT: dict[bytes, str] = {}
_payloads: Payloads | None = None


def use_payload_codec(codec: PayloadCodec | None) -> None:
    """Seal and open the payloads of records with *codec* from now on, in this process; None for not at all."""
    global _payloads
    _payloads = None if codec is None else Payloads(codec)
    for kind in PAYLOADS:
        encoders, decoders = _PLAIN[kind]
        for table, encoder in zip((_FAST_ENCODERS, _ENCODERS), encoders, strict=True):
            table[kind] = encoder if _payloads is None else _payloads.encoder(kind, encoder)
        for (where, key), decoder in decoders.items():
            where_table: Any = _FAST_DECODERS if where == "fast" else _DECODERS
            where_table[key] = decoder if _payloads is None else _payloads.decoder(kind, decoder)


def seal_value(value: bytes | None, context: str) -> bytes | None:
    """Return a value that is stored outside of records, sealed where there is a codec."""
    sealed: bytes | None = value if _payloads is None else _payloads.seal(value, context.encode())
    return sealed


def open_value(value: bytes | None, context: str) -> bytes | None:
    """Return what `seal_value` was given.

    Raises:
        CodecError: It cannot be opened.
    """
    opened: bytes | None = value if _payloads is None else _payloads.open(value, context.encode())
    return opened


def _never() -> bool:
    return False


def sealing() -> bool:
    """Tell whether payloads are sealed in this process."""
    return _payloads is not None


_ENCODERS, _DECODERS = _register()
_HEADS = {record: MARKER + fingerprint_of(parse_schema(schema_of(record))) for record in RECORDS}
_FAST_ENCODERS = {record: compile_encoder(record, head) for record, head in _HEADS.items()}
_FAST_DECODERS = {head: compile_decoder(record, _HEAD_BYTES) for record, head in _HEADS.items()}
for _record in RECORDS:
    _record.__init__ = compile_init(_record)


def _plain() -> dict[type[Any], Any]:
    """Return, for each record with payloads, its encoders, and its decoders by where they are found."""
    names = {record.__name__: record for record in RECORDS}
    plain: dict[type[Any], Any] = {kind: ((_FAST_ENCODERS[kind], _ENCODERS[kind]), {}) for kind in PAYLOADS}
    for head, decoder in _FAST_DECODERS.items():
        kind = _KINDS_BY_HEAD[head]
        if kind in plain:
            plain[kind][1]["fast", head] = decoder
    for name, decoder in _DECODERS.items():
        kind = names[_NAMES_BY_FINGERPRINT[name]]
        if kind in plain:
            plain[kind][1]["slow", name] = decoder
    return plain


_KINDS_BY_HEAD = {head: record for record, head in _HEADS.items()}
_PLAIN = _plain()
