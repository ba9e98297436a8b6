"""What can be wrong with a declaration: each check says what, where it stands in the user's code, and the way out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streams.agents.signature import Place, explain, hints_of
from streams.errors import ConfigurationError
from streams.records.ids import check_part
from streams.tools.tool import ToolPolicy

_LANE = re.compile(r"[A-Za-z0-9._-]{1,100}")


def import_extra(extra: str, module: str) -> Any:
    """Return a module that needs an extra of this package.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed; install the extra: pip install 'agent-streams[{extra}]'"
        ) from None


def check_name(what: str, name: str, place: Place) -> None:
    """Raise `ConfigurationError` for a name that IDs and topics cannot carry."""
    try:
        check_part(f"{what} name", name)
    except Exception as error:
        raise ConfigurationError(f"{place}: {error}") from None


def check_model(name: str, pool: str, max_output_tokens: int, place: Place) -> None:
    """Raise `ConfigurationError` for a model whose bound or pool cannot be; a pool's name ends that of its topic."""
    if max_output_tokens < 1:
        raise ConfigurationError(f"{place}: max_output_tokens {max_output_tokens} of model {name!r} is below 1")
    if not _LANE.fullmatch(pool):
        raise ConfigurationError(
            f"{place}: the pool of model {name!r} is {pool!r}, which a topic's name cannot carry; give pool= with "
            "letters, digits, '-', '_' and '.', 100 of them at most"
        )


def fallback_problem(what: str, place: Place, *, both: bool) -> str:
    """Return what is wrong with a declaration that has no fallback, or two."""
    if both:
        return f"{place}: {what} declares fallback= and fallback_fn=; keep one"
    return (
        f"{place}: {what} declares no fallback; say what callers get when it fails: "
        "fallback=<value> (None is a value) or fallback_fn=<function of the failure>"
    )


def constant(value: Any) -> Callable[..., Any]:
    """Return a function that returns *value* whatever it is called with."""
    return lambda *_, **__: value


def check_fallback(returns: TypeAdapter[Any], fallback: Any, name: str, place: Place) -> None:
    """Raise `ConfigurationError` for a fallback that is not of the type that the tool returns; None always is."""
    if fallback is None:
        return
    try:
        returns.validate_python(fallback)
    except ValidationError as error:
        raise ConfigurationError(
            f"{place}: fallback of tool {name!r} is not what the tool returns: {explain(error)}"
        ) from None


def check_policy(policy: ToolPolicy, name: str, place: Place) -> None:
    """Raise `ConfigurationError` for a bound outside its range."""
    if policy.effect not in ("read", "idempotent", "at-most-once"):
        raise ConfigurationError(
            f"{place}: effect {policy.effect!r} of tool {name!r} is not one of 'read', 'idempotent', 'at-most-once'"
        )
    for what, value, least in (
        ("timeout", policy.timeout_s, 0.001),
        ("concurrency", policy.concurrency, 1),
        ("attempts", policy.attempts, 1),
        ("max_wait", policy.max_wait_s, 0),
    ):
        if value < least:
            raise ConfigurationError(f"{place}: {what} {value} of tool {name!r} is below {least}")
    if policy.hedge_s is None:
        return
    if policy.effect != "read":
        raise ConfigurationError(
            f"{place}: hedge {policy.hedge_s} of tool {name!r} would make an {policy.effect} call twice; only a tool "
            'with effect="read" is hedged'
        )
    if not 0 < policy.hedge_s < policy.timeout_s:
        raise ConfigurationError(
            f"{place}: hedge {policy.hedge_s} of tool {name!r} is not between 0 and its timeout {policy.timeout_s}"
        )


def parse_rate(text: str | None, name: str, place: Place) -> float | None:
    """Return calls per second of a rate such as `50/s`, `600/min` or `10/h`."""
    if text is None:
        return None
    amount, _, unit = text.partition("/")
    seconds = {"s": 1.0, "min": 60.0, "h": 3600.0}.get(unit.strip())
    try:
        rate = float(amount) / (seconds or 0.0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if rate <= 0:
        raise ConfigurationError(f"{place}: rate {text!r} of tool {name!r} is not like '50/s', '600/min' or '10/h'")
    return rate


def request_type(handler: Callable[..., Any], name: str, place: Place) -> Any:
    """Return the type of the input that a handler takes."""
    if not inspect.iscoroutinefunction(handler):
        raise ConfigurationError(f"{place}: agent {name!r} is not an async function; declare it with `async def`")
    parameters = list(inspect.signature(handler).parameters.values())
    if len(parameters) != 2:
        raise ConfigurationError(
            f"{place}: agent {name!r} takes {len(parameters)} parameters; a handler takes a Context and its input"
        )
    hints = hints_of(handler, place)
    if parameters[1].name not in hints:
        raise ConfigurationError(f"{place}: input {parameters[1].name!r} of agent {name!r} has no type; annotate it")
    return hints[parameters[1].name]


def key_function(key: str | Callable[[Any], str], request: Any, name: str, place: Place) -> Callable[[Any], str]:
    """Return what derives the agent key from an input."""
    if callable(key):
        return key
    fields = getattr(request, "model_fields", None)
    if fields is not None and key not in fields:
        raise ConfigurationError(
            f"{place}: key {key!r} of agent {name!r} is not a field of {request.__name__}; it has {', '.join(fields)}"
        )
    if isinstance(request, type) and issubclass(request, dict):
        return lambda value: value[key]
    return lambda value: getattr(value, key)
