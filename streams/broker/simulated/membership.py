"""Membership of one simulated process in a group."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from streams.broker.port import OwnershipListener
from streams.broker.simulated.groups import Assignment
from streams.broker.simulated.link import Link
from streams.errors import BrokerUnavailable, OwnershipLost

log = logging.getLogger(__name__)


class SimulatedMembership:
    """See `streams.broker.port.Membership`."""

    def __init__(self, link: Link, group: str, anchor: str, instance_id: str | None) -> None:
        self._link = link
        self._group = group
        self._anchor = anchor
        self._instance_id = instance_id
        self._owned: frozenset[int] = frozenset()
        self._assignment: Assignment | None = None
        self._told = asyncio.Event()
        self._telling = asyncio.Lock()
        self._cycle: asyncio.Task[None] | None = None

    @property
    def owned(self) -> frozenset[int]:
        """Partition numbers that this process owns."""
        return self._owned

    async def start(self, listener: OwnershipListener) -> None:
        """Join the group; returns once the first assignment has been told to *listener*."""
        joined = asyncio.Event()
        # Fails here rather than in the task when the anchor topic does not exist.
        await self._link.request("joining a group", lambda: self._link.log.group(self._group, self._anchor))
        self._listener = listener
        self._cycle = asyncio.create_task(self._follow(joined), name=f"membership of {self._group}")
        await joined.wait()

    async def confirm(self) -> None:
        """Prove by a round trip that the membership's generation is still current."""
        told = self._assignment
        if told is None or not self._owned:
            raise OwnershipLost(f"group {self._group!r}: this member owns nothing in the current generation")
        group = self._link.log.group(self._group, self._anchor)
        await self._link.request("confirming ownership", lambda: group.check(told.member_id, told.generation))

    async def leave(self) -> None:
        """Leave the group; the listener lets go first of what is still owned."""
        cycle, self._cycle = self._cycle, None
        if cycle is None:
            return
        await self._revoke()
        cycle.cancel()
        await asyncio.wait([cycle])
        if self._assignment is not None:
            group, member_id = self._link.log.group(self._group, self._anchor), self._assignment.member_id
            try:
                await self._link.request("leaving a group", lambda: group.leave(member_id))
            except BrokerUnavailable:
                pass  # The session's end does it.

    async def _follow(self, joined: asyncio.Event) -> None:
        group = self._link.log.group(self._group, self._anchor)
        process = self._link.process
        member_id: str | None = None
        while True:
            self._told.clear()
            try:
                join = partial(group.join, member_id, self._instance_id, process, self._told.set)
                pending = await self._link.request("joining a group", join)
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
                continue
            told = await pending
            if not process.running:
                await process.resumed()
            member_id = told.member_id
            await self._assign(told)
            joined.set()
            await self._told.wait()
            if not process.running:
                await process.resumed()
            await self._revoke()

    async def _assign(self, told: Assignment) -> None:
        async with self._telling:
            self._assignment, self._owned = told, told.partitions
            try:
                await self._listener.assigned(told.partitions)
            except Exception:
                log.exception("taking over partitions of group %s failed", self._group)

    async def _revoke(self) -> None:
        async with self._telling:
            if self._owned:
                try:
                    await self._listener.revoked(self._owned)
                except Exception:
                    log.exception("letting go of partitions of group %s failed", self._group)
            self._owned = frozenset()
