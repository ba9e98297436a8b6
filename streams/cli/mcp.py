"""`streams mcp`: finding out what MCP servers offer, and pinning it in the manifests that processes start from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.loading import load_app
from streams.cli.shown import consoles
from streams.errors import UnknownName

if TYPE_CHECKING:
    from streams.app import App
    from streams.tools.mcp_tools import McpTools

AppName = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the App is, such as payments.agents:app.")]
ServerName = Annotated[
    str | None, typer.Option("--server", help="Only this server, by its name in the app.", show_default=False)
]


def register(root: typer.Typer) -> None:
    """Add the group to *root*."""
    group = typer.Typer(no_args_is_help=True, help="The tools of MCP servers: find them, pin them, compare.")
    group.command()(discover)
    group.command()(check)
    root.add_typer(group, name="mcp")


def discover(module_app: AppName, server: ServerName = None) -> None:
    """Ask each MCP server of an app what it offers, and write its manifest; keep that file with your code.

    Example: streams mcp discover payments.agents:app
    """
    app = load_app(module_app)
    asyncio.run(write_manifests(chosen(app, server)))


def check(module_app: AppName, server: ServerName = None) -> None:
    """Compare each MCP server with its manifest; exits with 1 where they differ."""
    out, _ = consoles()
    differs = False
    for tools in chosen(load_app(module_app), server):
        drift = asyncio.run(tools.drift())
        differs |= bool(drift)
        out.print(f"{tools.name}: {'; '.join(drift) or f'as in {tools.manifest.name}'}", markup=False)
    if differs:
        raise typer.Exit(1)


def chosen(app: App, server: str | None) -> list[McpTools]:
    """Return the servers that are meant.

    Raises:
        UnknownName: The app has none, or none of that name.
    """
    if not app.mcp_servers or (server is not None and server not in app.mcp_servers):
        has = ", ".join(app.mcp_servers) or "none"
        raise UnknownName(f"app {app.name!r} has no MCP server{f' {server!r}' if server else ''}; it has {has}")
    return list(app.mcp_servers.values()) if server is None else [app.mcp_servers[server]]


async def write_manifests(servers: list[McpTools]) -> None:
    """Write the manifest of each, and say what is in it."""
    out, _ = consoles()
    for tools in servers:
        found = await tools.discover()
        names = ", ".join(sorted(tool.name for tool in found)) or "nothing"
        out.print(f"{tools.name} offers {names}; written to {tools.manifest}", markup=False)
