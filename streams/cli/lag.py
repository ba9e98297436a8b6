"""`streams lag`: how far behind everything is, once or live. Measured from the log itself, without the control role."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.shown import consoles, print_json
from streams.cli.target import AppOption, JsonOption, NamespaceOption, Target, target
from streams.errors import BrokerError, ConfigurationError, TopicError

if TYPE_CHECKING:
    from streams.backpressure import Gate
    from streams.broker.port import Broker
    from streams.cli.lag_snapshot import Snapshot
    from streams.control.settings import ControlSettings
    from streams.records.control import BackpressureSignal
    from streams.records.topics import Catalogue

RATE_S = 1.0
"""Between the two samples of a single table: rates need two."""

SIGNALS_S = 3.0


def register(root: typer.Typer) -> None:
    """Add the command to *root*."""
    root.command("lag")(lag)


def lag(
    app: AppOption = None,
    namespace: NamespaceOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep it up to date, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.5, max=60, help="With --watch: between two looks.")
    ] = 1.0,
    json: JsonOption = False,
) -> None:
    """Show how far behind each lane and partition is, and what producers are told: streams lag --app shop:app --watch.

    Unread are the records behind the consumer's position, open those that it has read and not finished; lag is the age
    of the oldest unread one. Nothing but Kafka is needed: with ~ it says what the control role would tell producers.
    With --watch --json each look is an object on a line of its own.
    """
    if watch and not json and not sys.stdout.isatty():
        raise ConfigurationError("--watch draws on a terminal, and the output is none; add --json for a line each time")
    aim = target(app, namespace)
    try:
        asyncio.run(_watch(aim, every, json=json) if watch else _once(aim, json=json))
    except KeyboardInterrupt:
        pass  # the way to end it


async def _once(aim: Target, *, json: bool) -> None:
    from rich.console import Console

    from streams.cli.lag_table import WIDE, lag_view

    async with looking(aim) as look:
        await look.sample()
        await asyncio.sleep(RATE_S)
        snapshot = await look.sample()
    if json:
        print_json(snapshot.plain())
    else:
        # What goes into a file or a pipe need not fit a terminal.
        out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
        out.print(lag_view(snapshot, width=out.width))


async def _watch(aim: Target, every_s: float, *, json: bool) -> None:
    async with looking(aim) as look:
        if not json:
            await _draw(look, every_s)
        while True:
            began = time.monotonic()
            try:
                print_json((await look.sample()).plain(), indent=False)
            except BrokerError as error:
                consoles()[1].print(f"{error}; trying again", style="red", markup=False)
            await _until(began + every_s)


async def _draw(look: Look, every_s: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from streams.cli.lag_table import lag_view

    console, last = Console(highlight=False), await look.sample()
    # Drawn once a look, by this task: a thread that redraws would only cost, and write into what ends.
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began, problem = time.monotonic(), ""
            try:
                last = await look.sample()
            except BrokerError as error:
                problem = f"{error}; trying again"
            view = lag_view(last, width=console.width, height=console.height, problem=problem)
            live.update(view, refresh=True)
            await _until(began + every_s)


async def _until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


class Look:
    """Samples one namespace.

    Args:
        gate: Follows what the control role publishes.
        settings: Of the control role, for what it would publish.
        now_ms: Clock in ms since the epoch.
    """

    def __init__(
        self,
        broker: Broker,
        catalogue: Catalogue,
        gate: Gate,
        settings: ControlSettings,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        from streams.cli.lag_snapshot import Snapshots

        self._broker = broker
        self._catalogue = catalogue
        self._gate = gate
        self._settings = settings
        self._now_ms = now_ms
        self._made = Snapshots()
        self._begin()

    def _begin(self) -> None:
        from streams.backpressure import LagMonitor
        from streams.control.lanes import Lanes

        policy = self._settings.backpressure
        self._lanes = Lanes(policy, self._settings.behind)
        self._estimated: dict[str, BackpressureSignal] = {}
        self._monitor = LagMonitor(
            self._broker,
            self._catalogue,
            half_life_s=policy.half_life_s,
            least_records=policy.least_records,
            now_ms=self._now_ms,
        )

    async def sample(self) -> Snapshot:
        """Return how far behind everything is; rates are known from the second sample on.

        Raises:
            BrokerError: Kafka does not answer; what was known of rates is forgotten.
        """
        try:
            report = await self._monitor.sample()
        except BrokerError:
            self._begin()
            raise
        now_s = asyncio.get_running_loop().time()
        self._estimated |= {signal.lane: signal for signal in self._lanes.decide(report, now_s)}
        valid = {stage.name: self._gate.signal(stage.name, report.at_ms) for stage in report.stages}
        published = {lane: signal for lane, signal in valid.items() if signal is not None}
        return self._made.take(report, published, self._estimated)


@asynccontextmanager
async def looking(aim: Target) -> AsyncIterator[Look]:
    """Connect, and follow what producers are told.

    Raises:
        BrokerError: Kafka does not answer, or the namespace has no topics.
    """
    from streams.backpressure import Gate
    from streams.broker.port import Partition
    from streams.broker.table import Table

    async with aim.broker() as broker:
        catalogue = await existing(broker, aim.catalogue)
        gate = Gate(lambda: 0.0, lambda _: None)
        signals = Table(broker, [Partition(catalogue.name("backpressure"), 0)])
        signals.on_record(lambda record: gate.put(record.key or b"", record.value))
        async with signals:
            await signals.wait_loaded(SIGNALS_S)
            yield Look(broker, catalogue, gate, aim.settings.control)


async def existing(broker: Broker, catalogue: Catalogue) -> Catalogue:
    """Return the catalogue with the partitions and lanes that the namespace really has.

    Raises:
        TopicError: It has no topics.
    """
    from streams.records.topics import KINDS

    invocations = catalogue.name("invocations")
    found = await broker.admin.describe([invocations], with_config=False)
    if invocations not in found:
        raise TopicError(
            f"topic {invocations} does not exist on {broker.address}; correct the namespace, or create it with "
            "`streams topics create MODULE:APP`"
        )
    names = sorted(await broker.admin.list_topics())
    prefixes = {kind.name: f"{catalogue.name(kind.name)}." for kind in KINDS.values() if kind.lanes}
    lanes = {
        kind: tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        for kind, prefix in prefixes.items()
    }
    return replace(catalogue, partitions=found[invocations].partitions, lanes=lanes)
