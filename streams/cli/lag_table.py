"""How `streams lag` looks: one table, as high as the terminal allows, with a sparkline of each row's lag."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streams.cli.lag_snapshot import HISTORY, LaneView, Row, Snapshot, Told, worst_first
from streams.cli.shown import clock, span

LATE_S, VERY_LATE_S = 5.0, 30.0
"""Lag from which a row is yellow, and red: the second is the objective of the alerts."""

LEVEL_STYLES = {"open": "green", "slow": "yellow", "closed": "bold red"}
BARS = "▁▂▃▄▅▆▇█"
FULL_BAR_S = 1.0
"""Lag that fills the bar at least: a lag of milliseconds is no mountain."""

WIDE = 120
SPARKLINES = "lag until now"
FIGURES = 64
"""Columns that the figures of a row take, without the lane's name."""

MOST_QUEUES = 5
FRAME_LINES = 6
SILENT_S = 5.0


def lag_view(snapshot: Snapshot, *, width: int = WIDE, height: int | None = None, problem: str = "") -> RenderableType:
    """Return what is shown.

    Args:
        width: Columns of the terminal; the sparklines get what the figures leave.
        height: Lines that it may take; None for as many as it needs.
        problem: Why it is no longer up to date.
    """
    shown = [lane for lane in snapshot.lanes if lane.consumed or lane.total.unread]
    below = _below(snapshot, problem)
    room = None
    if height is not None:
        room = max(0, height - FRAME_LINES - len(below) - len(shown))
    table = Table(
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
        title=_title(snapshot),
        title_justify="left",
    )
    table.add_column("lane", no_wrap=True)
    for name, least in (("part", 4), ("unread", 7), ("open", 5), ("lag", 8), ("in/s", 6), ("out/s", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=least)
    table.add_column("level", no_wrap=True, min_width=7)
    table.add_column("retry", justify="right", no_wrap=True, min_width=10)
    bars = min(HISTORY, width - max((len(lane.name) for lane in shown), default=0) - FIGURES)
    if bars >= len(SPARKLINES):
        table.add_column(SPARKLINES, no_wrap=True, min_width=bars)
    else:
        bars = 0
    for lane in shown:
        room = _add_lane(table, lane, room, bars)
    return Group(table, *below)


def sparkline(values: Sequence[float]) -> str:
    """Return a bar for each value, the highest one for the largest."""
    top = max((*values, FULL_BAR_S))
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)


def _title(snapshot: Snapshot) -> Text:
    return Text(f"Lag at {clock(snapshot.at_ms)}", style="dim")


def _add_lane(table: Table, lane: LaneView, room: int | None, bars: int) -> int | None:
    """Add a lane and, where producers are told something, its partitions; return the room that is left."""
    name = escape(lane.name) if lane.consumed else f"[dim]{escape(lane.name)}[/]"
    table.add_row(f"[bold]{name}[/]", *_cells(lane.total), *_told_cells(lane.told), *_spark(lane.total, bars))
    if lane.told is None:
        return room
    rows, left_out = worst_first(lane.partitions, len(lane.partitions) if room is None else room)
    if left_out:
        rows, left_out = worst_first(lane.partitions, len(rows) - 1)
    for row in rows:
        table.add_row("", *_cells(row), "", "", *_spark(row, bars))
    if left_out and room:
        table.add_row(f"[dim]  {left_out} others[/]")
    return None if room is None else room - len(rows) - bool(left_out)


def _cells(row: Row) -> tuple[str, ...]:
    partition = "all" if row.partition is None else str(row.partition)
    style = "red" if row.lag_s > VERY_LATE_S else "yellow" if row.lag_s > LATE_S else "none"
    return (
        partition,
        f"{row.unread:,}",
        f"{row.open:,}",
        f"[{style}]{span(row.lag_s) if row.lag_s else '-'}[/]",
        _rate(row.arrival_per_s),
        f"[red]{_rate(row.drain_per_s)}[/]" if row.unread and row.silent_s > SILENT_S else _rate(row.drain_per_s),
    )


def _told_cells(told: Told | None) -> tuple[str, str]:
    if told is None:
        return "", ""
    mark = "" if told.published else "~"
    wait = f"{mark}{span(told.retry_after_s)}" if told.retry_after_s else "-"
    return f"[{LEVEL_STYLES.get(told.level, 'bold')}]{mark}{told.level}[/]", wait


def _below(snapshot: Snapshot, problem: str) -> list[Text]:
    told = [(lane.name, lane.told) for lane in snapshot.lanes if lane.told is not None]
    lines = [Text(f"{name}: {it.reason}", style="yellow") for name, it in told if it.reason]
    if any(not it.published for _, it in told):
        lines.append(Text("~ No control role tells producers: this is what it would say.", style="yellow"))
    unread = [lane.name for lane in snapshot.lanes if lane.total.unread and not lane.consumed]
    if unread:
        lines.append(Text(f"Nobody has read {' and '.join(unread)} yet.", style="dim"))
    if snapshot.queues:
        longest, rest = snapshot.queues[:MOST_QUEUES], len(snapshot.queues) - MOST_QUEUES
        named = ", ".join(f"{it.agent} {it.depth:,} (oldest {span(it.oldest_s)})" for it in longest)
        lines.append(Text(f"Waiting: {named}{f' and {rest} more agents' if rest > 0 else ''}"))
    if snapshot.uncounted:
        lines.append(Text(f"{snapshot.uncounted:,} unread invocations are not counted by agent yet.", style="dim"))
    if problem:
        lines.append(Text(f"Not up to date: {problem}", style="bold red"))
    return lines


def _spark(row: Row, bars: int) -> tuple[str, ...]:
    return (f"[cyan]{sparkline(row.history[-bars:])}[/]",) if bars > 0 else ()


def _rate(per_s: float) -> str:
    return "-" if per_s < 0.05 else f"{per_s:,.1f}" if per_s < 100 else f"{per_s:,.0f}"
