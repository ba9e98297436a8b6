"""Running roles in this process: connect, check the topics, start what was asked for, end in good order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import structlog
import uvloop

from streams.app import App
from streams.broker.connect import open_broker
from streams.broker.port import Broker
from streams.broker.topics import ensure_partitions
from streams.encryption import protect_payloads
from streams.errors import SettingsError, StreamsError
from streams.observe.log_check import LogCheck
from streams.observe.logs import configure_logs
from streams.observe.server import serve_probes
from streams.records.topics import Catalogue
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.shards.cold_reads import StateSource

log = structlog.get_logger(__name__)

Role = Literal["shards", "tools", "llm", "memory", "control", "gateway"]
ROLES: tuple[Role, ...] = get_args(Role)


class Runs(Protocol):
    """A role: works until its task is cancelled. Metrics and probes read the object beside that."""

    async def run(self) -> None: ...


HASH_SEED = "0"
COLLECT_AFTER = (50_000, 20, 50)
"""Thresholds of the garbage collector: Python's own 700 cost a shard a fifth of its time (measured)."""
PARENT_CHECK_S = 0.5


def pin_hash_seed() -> None:
    """Start the process again with a fixed PYTHONHASHSEED, unless it has one.

    Handlers are run again in other processes; a set of texts must be walked in the same order there.
    """
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "streams", *sys.argv[1:]])


def default_roles(settings: Settings) -> tuple[Role, ...]:
    """Return the roles that run when none is named: all, the gateway only where it is installed and has a port."""
    gateway = settings.gateway.port is not None and find_spec("starlette") and find_spec("uvicorn")
    return tuple(role for role in ROLES if role != "gateway" or gateway)


def process_environment(settings: Settings, number: int) -> dict[str, str]:
    """Return what the environment of one process among several says otherwise: its name, and ports of its own.

    Args:
        number: From 0; process *number* takes the ports of the settings plus that.
    """
    name = settings.instance_id or socket.gethostname()
    ports = {"STREAMS_OBSERVE__PORT": settings.observe.port, "STREAMS_GATEWAY__PORT": settings.gateway.port}
    own = {variable: str(port + number) for variable, port in ports.items() if port}
    return {"STREAMS_INSTANCE_ID": f"{name}-{number}", **own}


def run_until_signal(
    app: App,
    settings: Settings,
    roles: Collection[Role],
    *,
    parent: int | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Run roles until SIGINT or SIGTERM, or until the process *parent* has gone.

    Raises:
        StreamsError: A role could not start, or gave up.
    """
    configure_logs(settings.observe)
    uvloop.run(_until_signal(run_roles(app, settings, roles, ready=ready), parent))


async def _until_signal(work: Coroutine[Any, Any, None], parent: int | None) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    watcher = asyncio.ensure_future(_watch_parent(parent, task)) if parent else None
    try:
        await task
    except asyncio.CancelledError:
        pass  # asked to end
    finally:
        if watcher is not None:
            watcher.cancel()


async def _watch_parent(parent: int, task: asyncio.Future[None]) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - a parent that goes gives no event
        await asyncio.sleep(PARENT_CHECK_S)
    task.cancel()


async def run_roles(
    app: App, settings: Settings, roles: Collection[Role], *, ready: Callable[[], None] | None = None
) -> None:
    """Run roles until cancelled.

    Raises:
        StreamsError: A role could not start, or gave up; the first one's error.
    """
    app.check_tools_known()
    protect_payloads(settings.encryption)
    if settings.encryption.keys and settings.shards.results_as == "json":
        raise SettingsError("results are sealed in Avro only; unset shards.results_as, or the keys of encryption")
    collect_rarely()
    async with AsyncExitStack() as stack:
        broker = open_broker(settings.kafka_for_payloads())
        stack.push_async_callback(broker.close)
        await broker.connect()
        catalogue = settings.catalogue(app.name, dict(app.lanes()))
        await ensure_partitions(broker.admin, catalogue)
        made: dict[str, Runs] = {
            role: make_role(role, app, broker, catalogue, settings) for role in ROLES if role in roles
        }
        await stack.enter_async_context(
            serve_probes(settings.observe, made, LogCheck.of(broker, catalogue.name("owners")))
        )
        if ready is not None:
            ready()
        failed: StreamsError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for role, it in made.items():
                    group.create_task(it.run(), name=f"role {role}")
        except* StreamsError as errors:
            failed = _first(errors)
        if failed is not None:
            raise failed  # not above: until Python 3.11.4 what is raised in an except* clause arrives as a group


def collect_rarely() -> None:
    """Let the garbage collector run rarely, and never look again at what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def make_role(role: Role, app: App, broker: Broker, catalogue: Catalogue, settings: Settings) -> Runs:
    """Return a role, not running yet. Imports only what that role needs."""
    instance_id = settings.instance_id
    match role:
        case "shards":
            from streams.llm.prices import prices_for
            from streams.shards.role import ShardRole

            read_from: Sequence[StateSource] = ()
            if settings.memory.configured:
                from streams.memory.cold import sources

                read_from = sources(settings.memory, catalogue.namespace)
            prices = prices_for(app, settings.llm)
            return ShardRole(
                app,
                broker,
                catalogue,
                settings.shards,
                sources=read_from,
                breakers=settings.breakers,
                instance_id=instance_id,
                prices=prices,
            )
        case "tools":
            from streams.tools.role import ToolRole

            return ToolRole(app, broker, catalogue, settings.tools, breakers=settings.breakers, instance_id=instance_id)
        case "llm":
            from streams.llm.role import LlmRole

            return LlmRole(app, broker, catalogue, settings.llm, breakers=settings.breakers, instance_id=instance_id)
        case "memory":
            from streams.memory.role import MemoryRole

            memory = settings.memory.model_copy(
                update={"group_instance_id": settings.memory.group_instance_id or instance_id}
            )
            return MemoryRole(broker, catalogue, memory, breakers=settings.breakers)
        case "control":
            from streams.control.role import ControlRole

            return ControlRole(broker, catalogue, settings.control, settings.kafka, breakers=settings.breakers)
        case "gateway":
            from streams.gateway.role import GatewayRole

            return GatewayRole(app, broker, catalogue, settings)


def _first(errors: BaseExceptionGroup[StreamsError]) -> StreamsError:
    found: Sequence[BaseException] = errors.exceptions
    while isinstance(found[0], BaseExceptionGroup):
        found = found[0].exceptions
    assert isinstance(found[0], StreamsError)
    return found[0]
