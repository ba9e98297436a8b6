"""Hypothesis strategies for every record, from its fields' types."""

import dataclasses
import typing
from typing import Any

from hypothesis import strategies as st

from streams.records import RECORDS

LONG = st.integers(-(2**63), 2**63 - 1)
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: LONG,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), values_of(arguments[1]), max_size=4)
    return st.one_of([values_of(argument) for argument in arguments])


def instances(record: type[Any]) -> st.SearchStrategy[Any]:
    """Return instances of a record."""
    hints = typing.get_type_hints(record)
    return st.builds(record, **{field.name: values_of(hints[field.name]) for field in dataclasses.fields(record)})


def any_record() -> st.SearchStrategy[Any]:
    """Return instances of all records."""
    return st.sampled_from(RECORDS).flatmap(instances)
