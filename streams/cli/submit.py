"""`streams submit`: one invocation from the command line, and its result as JSON."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.shown import consoles, parse_json, print_json
from streams.cli.target import AppOption, NamespaceOption, Target, target
from streams.errors import ConfigurationError

if TYPE_CHECKING:
    from streams.client.outcome import InvocationResult


def register(root: typer.Typer) -> None:
    """Add the command to *root*."""
    root.command("submit")(submit)


def submit(
    agent: Annotated[str, typer.Argument(help="The agent's name with --app; NAME/KEY where its code is not at hand.")],
    request: Annotated[
        str,
        typer.Option("--input", "-i", metavar="JSON", help="The agent's input; @FILE reads a file, - standard input."),
    ] = "null",
    app: AppOption = None,
    namespace: NamespaceOption = None,
    key: Annotated[str | None, typer.Option(help="The agent's key, where AGENT does not name it.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same one with the same input is the same invocation.", show_default=False)
    ] = None,
    tenant: Annotated[str, typer.Option(help="On whose account.")] = "",
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    deadline: Annotated[
        float | None, typer.Option(help="Seconds until it is ended as failed.", show_default="1 h")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait here; it goes on without us.", show_default="the deadline")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or print only the ID.")] = True,
) -> None:
    """Submit an invocation and print its result as JSON; exits with 1 if it did not succeed.

    streams submit dispute --app payments.agents:app --input '{"customer": "c-1", "text": "not mine"}'
    """
    value = parse_json(_read(request), "--input")
    aim = target(app, namespace)
    options: dict[str, Any] = {
        "idempotency_key": idempotency_key, "tenant": tenant, "priority": priority, "deadline": deadline
    }  # fmt: skip
    asyncio.run(_submit(aim, *_address(aim, agent, key, value), options, timeout, wait=wait))


async def _submit(
    aim: Target, agent: Any, value: Any, options: dict[str, Any], timeout: float | None, *, wait: bool
) -> None:
    _, err = consoles()
    async with aim.client() as client:
        handle = await client.submit(agent, value, **options)
        if not wait:
            print(handle.invocation_id)
            return
        with err.status(f"{handle.invocation_id} is submitted; waiting for its result"):
            result = await handle.result(timeout)
    _print(result)
    if not result.succeeded:
        raise typer.Exit(1)


def _print(result: InvocationResult[Any]) -> None:
    from streams.records.json import result_to_json

    print_json(result_to_json(result.record))


def _address(aim: Target, agent: str, key: str | None, value: Any) -> tuple[Any, Any]:
    """Return what `Client.submit` takes for the agent, and the input for it.

    Raises:
        ConfigurationError: The key is missing, or said twice and differently.
        UnknownName: The app has no such agent.
        InvalidInput: The input does not fit the agent; names the field.
    """
    name, _, said = agent.partition("/")
    if said and key and said != key:
        raise ConfigurationError(f"AGENT says the key {said!r}, --key says {key!r}; keep one")
    said = said or key or ""
    if aim.app is None:
        if not said:
            raise ConfigurationError(
                f"agent {name!r} has no key; say {name}/KEY (or --key KEY), or --app MODULE:APP to derive it "
                "from the input"
            )
        return f"{name}/{said}", value
    import orjson

    declared = aim.app.latest(name)
    parsed = declared.parse(orjson.dumps(value))
    derived = declared.key_of(parsed)
    if said and said != derived:
        raise ConfigurationError(
            f"key {said!r} is not {derived!r}, the one that agent {name!r} derives from this input; leave it out"
        )
    return declared, parsed


def _read(request: str) -> str:
    if request == "-":
        return sys.stdin.read()
    if not request.startswith("@"):
        return request
    try:
        return Path(request[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--input {request}: {error}; name a file with JSON in it") from None
