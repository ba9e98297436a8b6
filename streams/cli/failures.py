"""What a person sees when a command fails: one line that begins with `error:`, and an exit code.

2 means that the command line or the settings are wrong and nothing was tried; 1 that it was tried and failed.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from streams.errors import ConfigurationError, StreamsError

FAILED = 1
WRONGLY_CALLED = 2


class Commands(TyperGroup):
    """A group of commands that never ends with a traceback, unless `--debug` asks for one."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that *ctx* names."""
        with told(lambda: bool(ctx.params.get("debug"))):
            return super().invoke(ctx)


@contextmanager
def told(debug: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn what goes wrong inside into a line on standard error and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException, KeyboardInterrupt, SystemExit):
        raise
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing may be flushed to it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except BaseException as error:
        if debug():
            raise
        first = _innermost(error)
        typer.echo(f"error: {_line(first)}", err=True)
        raise typer.Exit(WRONGLY_CALLED if isinstance(first, ConfigurationError) else FAILED) from None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _line(error: BaseException) -> str:
    if isinstance(error, StreamsError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} (unexpected, at {last.filename}:{last.lineno}; `streams --debug ...` shows "
        "how it came there, and it is worth an issue)"
    )
