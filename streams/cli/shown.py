"""How values are shown: JSON for machines, times and colours for people."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

STATUS_STYLES = {"succeeded": "green", "failed": "bold red", "cancelled": "yellow", "deferred": "yellow"}


def consoles() -> tuple[Console, Console]:
    """Return the consoles of standard output and standard error."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any, *, indent: bool = True) -> None:
    """Print a value as JSON: bytes that are JSON already, or plain values; on one line without *indent*."""
    plain = orjson.loads(value) if isinstance(value, bytes) else value
    print(orjson.dumps(plain, option=orjson.OPT_INDENT_2 if indent else 0).decode(), flush=True)


def parse_json(text: str, option: str) -> Any:
    """Return the value in a JSON text.

    Raises:
        ConfigurationError: It is not JSON; names the option and the place.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(
            f"{option} is not JSON: {error.msg} at character {error.pos} of {_short(text)!r}; "
            "texts need double quotes, and the shell needs single ones around the whole"
        ) from None


def clock(at_ms: int) -> str:
    """Return a time of today as hours to milliseconds, an earlier one with its date."""
    if not at_ms:
        return "-"
    at = datetime.fromtimestamp(at_ms / 1000).astimezone()
    today = at.date() == datetime.now().astimezone().date()
    return at.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """Return a duration as a person would say it."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
