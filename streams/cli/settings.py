"""`streams settings`: every setting as this process would have it, secrets hidden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.shown import consoles, print_json
from streams.cli.target import JsonOption, at_hand

if TYPE_CHECKING:
    from pydantic import BaseModel


def register(root: typer.Typer) -> None:
    """Add the command to *root*."""
    root.command("settings")(settings)


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are not at their default.")] = False,
    json: JsonOption = False,
) -> None:
    """Print every setting by its name in the environment. Changed ones stand out; secrets are hidden.

    Arguments come first, then the environment, then streams.toml (or the file that STREAMS_CONFIG names).
    """
    from streams.settings import PREFIX, load_settings

    loaded = at_hand(load_settings())
    rows = [(name, value, is_set) for name, value, is_set in flattened(loaded, PREFIX) if is_set or not changed]
    if json:
        print_json({name: value for name, value, _ in rows})
        return
    out, _ = consoles()
    for name, value, is_set in rows:
        out.print(f"{name}={'' if value is None else value}", style="bold" if is_set else "dim", markup=False)


def flattened(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield name in the environment, value as JSON has it, and whether it differs from its default."""
    values = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        value, full = getattr(model, name), f"{prefix}{name.upper()}"
        if hasattr(value, "model_dump"):
            yield from flattened(value, f"{full}__")
        else:
            yield full, _plain(values[name]), value != field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    import orjson

    return orjson.dumps(value).decode() if isinstance(value, Mapping | list) else value
