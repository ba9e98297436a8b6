"""Logs of a process, configured once at the edge: structlog and the standard library end in the same lines.

For people on a terminal, one JSON object a line for everything else. What a user's own code logs through the standard
library takes the same way. A process that does not call `configure_logs` keeps its own logging.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import orjson
import structlog

from streams.observe.settings import ObserveSettings

QUIET: Final = ("aiohttp", "asyncio", "faust", "httpcore2", "httpx2", "mode", "uvicorn")
"""Libraries that tell at INFO what each of their parts does. The broker's room keeps aiokafka quiet itself."""

FIRST: Final = ("timestamp", "level", "logger", "event")
"""What a JSON line begins with; what an entry carries beside that follows."""


def configure_logs(settings: ObserveSettings, stream: TextIO | None = None) -> None:
    """Send everything that this process logs to one place; a later call replaces an earlier one.

    Args:
        stream: By default standard error.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(_is_json(settings, out)))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(settings.log_level.upper())
    levels = dict.fromkeys(QUIET, "warning") | settings.log_levels
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


_SHARED: Final[Sequence[structlog.typing.Processor]] = (
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


def _is_json(settings: ObserveSettings, out: TextIO) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not out.isatty())


def _formatter(as_json: bool) -> logging.Formatter:
    # Frames without their local variables: those are inputs, states and keys.
    frames = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    render: Sequence[structlog.typing.Processor] = (
        (frames, structlog.processors.JSONRenderer(serializer=_to_json))
        if as_json
        else (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
    )


def _to_json(entry: dict[str, Any], **_: Any) -> str:
    ordered = {name: entry[name] for name in FIRST if name in entry} | entry
    return orjson.dumps(ordered, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
