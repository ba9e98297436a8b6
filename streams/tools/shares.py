"""How much of a partition's look-ahead each tool may use, so that no backlog of one stands in another's way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.records.topics import Catalogue
from streams.tools.tool import Tool

UNKNOWN = "?"
"""Lot of all calls of tools that this process does not have; no tool can have that name."""


class Shares:
    """The shares of an app's tools.

    The look-ahead of each topic is split evenly between the tools that use it, and those that this process does not
    know; a tool has at least its concurrency, so that one partition alone can keep it busy.

    Args:
        max_open: Look-ahead of a topic in one partition.
    """

    def __init__(self, tools: Mapping[str, Tool[..., Any]], catalogue: Catalogue, max_open: int) -> None:
        by_lane: dict[str, list[Tool[..., Any]]] = {"": []}
        for tool in tools.values():
            by_lane.setdefault(tool.lane, []).append(tool)
        self._shares = {UNKNOWN: max(1, max_open // (len(by_lane[""]) + 1))}
        self._alone: dict[str, str] = {}
        for lane, found in by_lane.items():
            if len(found) == 1:
                self._alone[catalogue.name("tool-calls", lane)] = found[0].name
                self._shares[found[0].name] = max(max_open, found[0].policy.concurrency)
                continue
            for tool in found:
                self._shares[tool.name] = max(max_open // (len(found) + 1), tool.policy.concurrency)

    def lot(self, tool: str) -> str:
        """Return what the calls of a tool are counted under."""
        return tool if tool in self._shares else UNKNOWN

    def of(self, lot: str) -> int:
        """Return how many calls of a lot may be open in one partition."""
        return self._shares.get(lot, self._shares[UNKNOWN])

    def alone(self, topic: str) -> str:
        """Return the tool that has a topic to itself, empty where several share it."""
        return self._alone.get(topic, "")
