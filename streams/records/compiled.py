"""Encoders and decoders written out field by field, one pair for each record class.

Every record of the pipeline passes here several times, so a general Avro writer that walks a schema costs more than all
else that is done with it. What these make is what fastavro makes, byte for byte; a test holds them to it. They do only
what is ordinary: whatever they refuse, by any exception, is fastavro's to encode, to decode or to name as an error.
"""

from __future__ import annotations

import dataclasses
import struct
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAX_REMEMBERED = 8_192
MAX_REMEMBERED_CHARS = 128

_double = struct.Struct("<d")


class _Longs(dict[int, bytes]):
    """Zigzag varints, remembered: most numbers are small, and times repeat within a batch."""

    def __missing__(self, number: int) -> bytes:
        if type(number) is not int or not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"{number!r} is not a long")
        rest = (number << 1) ^ (number >> 63)
        parts = bytearray()
        while rest > 127:
            parts.append(rest & 127 | 128)
            rest >>= 7
        parts.append(rest)
        encoded = bytes(parts)
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        self[number] = encoded
        return encoded


class _Texts(dict[str, bytes]):
    """Strings with their length, remembered where short: IDs, names and empty strings come again and again."""

    def __missing__(self, text: str) -> bytes:
        data = text.encode()
        encoded = _longs[len(data)] + data
        if len(text) <= MAX_REMEMBERED_CHARS:
            if len(self) >= MAX_REMEMBERED:
                self.clear()
            self[text] = encoded
        return encoded


_longs = _Longs()
_times: dict[bytes, int] = {}
"""Numbers by their varint, for those as long as milliseconds since the epoch are."""
_TIME_BYTES = 6
_texts = _Texts()


def compile_encoder(record: type[Any], head: bytes) -> Callable[[Any], bytes]:
    """Return a function from a record to its bytes, after *head*."""
    names = _encoding_names()
    parts = [repr(head)]
    for name, hint in typing.get_type_hints(record).items():
        parts += _encoding(f"r.{name}", hint, names)
    return _made("encode", f"def encode(r):\n    return join(({', '.join(parts)},))", names)


def compile_decoder(record: type[Any], start: int) -> Callable[[bytes], Any]:
    """Return a function from bytes to the record whose fields begin at *start*.

    The function raises what it likes for anything but the ordinary encoding of exactly one record.
    """
    draft = _draft_of(record)
    names: dict[str, Any] = {"draft": draft, "record": record, "tail": _tail, "double": _double.unpack_from}
    lines = ["r = draft()", f"i = {start}"]
    hints = typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        lines += _decoding(f"r.{field.name}", hints[field.name], names)
    lines += ["if i != len(data): raise ValueError", "r.__class__ = record", "return r"]
    return _made("decode", "def decode(data):\n" + "\n".join(f"    {line}" for line in lines), names)


def compile_init(record: type[Any]) -> Callable[..., None]:
    """Return an `__init__` with the signature that the dataclass *record* has, in a third of its time."""
    names: dict[str, Any] = {"_draft": _draft_of(record), "_record": record}
    names["_become"] = object.__setattr__  # a frozen record lets nobody else change its class
    parameters, values = _signature(record, names)
    fill = "\n".join(f"    self.{name} = {value}" for name, value in values.items())
    return _made(
        "__init__",
        f"def __init__(self, {parameters}):\n    _become(self, '__class__', _draft)\n{fill}\n"
        "    self.__class__ = _record",
        names,
    )


def compile_maker(dataclass: Callable[P, R]) -> Callable[P, R]:
    """Return a function that makes what calling a frozen *dataclass* with slots makes, in a fraction of the time.

    A class that is called packs its keywords into a dictionary and unpacks them; a function takes them as they are.
    """
    record = typing.cast(type[Any], dataclass)
    names: dict[str, Any] = {"_draft": _draft_of(record), "_record": record}
    parameters, values = _signature(record, names)
    fill = "\n".join(f"    made.{name} = {value}" for name, value in values.items())
    source = f"def make({parameters}):\n    made = _draft()\n{fill}\n    made.__class__ = _record\n    return made"
    return _made("make", source, names)


def compile_field_encoder(
    record: type[Any], head: bytes, encode: Callable[[Any], bytes], sealed: Callable[[], bool]
) -> Callable[..., bytes]:
    """Return a function from the fields of a record to the bytes of that record, without making one.

    Args:
        encode: Takes the record where this cannot: while *sealed*, and for what is not ordinary.
    """
    names: dict[str, Any] = {"_record": record, "_encode": encode, "_sealed": sealed, **_encoding_names()}
    parameters, values = _signature(record, names)
    hints = typing.get_type_hints(record)
    parts = [repr(head)]
    for name in values:
        parts += _encoding(name, hints[name], names)
    source = f"""
def encode({parameters}):
    try:
        if not _sealed():
            return join(({", ".join(parts)},))
    except Exception:
        pass
    return _encode(_record({", ".join(values)}))
"""
    return _made("encode", source, names)


def _signature(record: type[Any], names: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the parameters of a dataclass, and the value of each field by its name; adds what they need to *names*."""
    names["_absent"] = dataclasses.MISSING
    parameters, values = [], {}
    for field in dataclasses.fields(record):
        name, values[field.name] = field.name, field.name
        if field.default_factory is not dataclasses.MISSING:
            names[f"_new_{name}"] = field.default_factory
            parameters.append(f"{name}=_absent")
            values[name] = f"_new_{name}() if {name} is _absent else {name}"
        elif field.default is not dataclasses.MISSING:
            names[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
    return ", ".join(parameters), values


def _draft_of(record: type[Any]) -> type[Any]:
    """Return a class of the same layout that is not frozen: a draft of it becomes a record once it is filled.

    Setting the fields of a frozen dataclass, one `object.__setattr__` each, would be most of decoding.
    """
    slots = {"__slots__": tuple(field.name for field in dataclasses.fields(record))}
    # Of a generic class the original bases: as a plain base `Generic` is refused, and without it the layout differs.
    bases = getattr(record, "__orig_bases__", record.__bases__)
    return types.new_class(record.__name__, bases, exec_body=lambda body: body.update(slots))


def _made(name: str, source: str, names: dict[str, Any]) -> Callable[..., Any]:
    exec(compile(source, f"<{name} of a record>", "exec"), names)
    made: Callable[..., Any] = names[name]
    return made


def _encoding_names() -> dict[str, Any]:
    return {"L": _longs, "S": _texts, "D": _double.pack, "B": (b"\x00", b"\x01"), "join": b"".join}


def _encoding(value: str, hint: Any, names: dict[str, Any]) -> list[str]:
    """Return the expressions whose joined bytes encode the expression *value*."""
    if hint is str:
        return [f"S[{value}]"]
    if hint is int:
        return [f"L[{value}]"]
    if hint is float:
        return [f"D({value})"]
    if hint is bool:
        return [f"B[{value}]"]
    if hint is bytes:
        return [f"L[len({value})]", value]
    if (inner := _optional(hint)) is not None:
        some = ", ".join(_encoding(value, inner, names))
        return [f"(b'\\x00' if {value} is None else join((b'\\x02', {some})))"]
    if (inner := _item(hint)) is not None:
        some = ", ".join(_encoding("x", inner, names))
        return [
            f"(join((L[len({value})], *[part for x in {value} for part in ({some},)], b'\\x00'))"
            f" if {value} else b'\\x00')"
        ]
    some = ", ".join(_encoding("x", typing.get_args(hint)[1], names))
    return [
        f"(join((L[len({value})], *[join((S[k], {some})) for k, x in {value}.items()], b'\\x00'))"
        f" if {value} else b'\\x00')"
    ]


def _decoding(target: str, hint: Any, names: dict[str, Any]) -> list[str]:
    """Return the statements that read *target* from `data` at `i`, and move `i` past it."""
    if hint is int:
        return [*_UNSIGNED, f"{target} = (n >> 1) ^ -(n & 1)"]
    if hint is str or hint is bytes:
        piece = "data[i:j].decode()" if hint is str else "data[i:j]"
        return [*_UNSIGNED, "if n & 1: raise ValueError", "j = i + (n >> 1)", f"{target} = {piece}", "i = j"]
    if hint is float:
        return [f"({target},) = double(data, i)", "i += 8"]
    if hint is bool:
        return [f"{target} = (False, True)[data[i]]", "i += 1"]
    if (inner := _optional(hint)) is not None:
        some = [f"    {line}" for line in _decoding(target, inner, names)]
        return ["n = data[i]", "i += 1", f"if n == 0: {target} = None", "elif n == 2:", *some, "else: raise ValueError"]
    if (inner := _item(hint)) is not None:
        some = [f"    {line}" for line in _decoding("x", inner, names)]
        each, done, empty = [*some, "    items.append(x)"], f"{target} = tuple(items)", "[]"
    else:
        some = [f"    {line}" for name, kind in (("k", str), ("x", typing.get_args(hint)[1]))
                for line in _decoding(name, kind, names)]  # fmt: skip
        each, done, empty = [*some, "    items[k] = x"], f"{target} = items", "{}"
    block = [f"items = {empty}", *_UNSIGNED, "if n & 1: raise ValueError", "if n:", "    for _ in range(n >> 1):"]
    # Writers may split a block; ours write one, so anything else is left to fastavro.
    return [*block, *(f"    {line}" for line in each), "    if data[i]: raise ValueError", "    i += 1", done]


_UNSIGNED = ("n = data[i]", "i += 1", "if n > 127: n, i = tail(data, i, n)")


def _tail(data: bytes, at: int, number: int) -> tuple[int, int]:
    """Return a varint whose first byte was *number*, and where it ends."""
    six = data[at - 1 : at + 5]
    if (known := _times.get(six)) is not None:
        return known, at + 5
    start = at - 1
    number &= 127
    shift = 7
    while True:
        byte = data[at]
        at += 1
        if byte < 128:
            break
        number |= (byte & 127) << shift
        shift += 7
    number |= byte << shift
    if number >> 64 or byte == 0:
        raise ValueError
    if at - start == _TIME_BYTES:
        if len(_times) >= MAX_REMEMBERED:
            _times.clear()
        _times[six] = number
    return number, at


def _optional(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return inner
    return None


def _item(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
