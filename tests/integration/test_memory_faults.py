"""What the write-back survives on a real Postgres: each fault hits while shards write, then nothing is lost or stale.

A trigger in the database itself counts writes of an older version over a newer one, whoever makes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from streams.memory.role import MemoryRole
from tests.integration.test_memory_write_back import SINK, World, delta, eventually, running, world

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]

OWNERS = [f"a/{number:02d}" for number in range(20)]
WATCH = """
CREATE TABLE stale (owner text);
CREATE FUNCTION note_stale() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (new.epoch, new.sequence) < (old.epoch, old.sequence) THEN INSERT INTO stale VALUES (new.owner); END IF;
    RETURN new;
END $$;
CREATE TRIGGER note_stale BEFORE UPDATE ON state FOR EACH ROW EXECUTE FUNCTION note_stale();
"""
FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON state FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


class Fault:
    """A world under a load that goes on until it is told to stop."""

    def __init__(self, it: World, admin: psycopg.AsyncConnection) -> None:
        self.it = it
        self.admin = admin
        self.written = 0
        self._stop = asyncio.Event()

    async def load(self) -> None:
        """Write every owner again and again, as a shard does."""
        while not self._stop.is_set():
            self.written += 1
            await self.it.commit(self.written % 2, *(delta(owner, self.written) for owner in OWNERS))
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()

    async def sql(self, statement: str) -> list[tuple[object, ...]]:
        found = await self.admin.execute(statement.encode())
        return await found.fetchall() if found.description else []

    async def reached(self, sequence: int) -> bool:
        """Whether Postgres has everything up to a write, and nothing is set aside."""
        found = await self.it.sequences(OWNERS)
        return len(found) == len(OWNERS) and min(found.values()) >= sequence


@asynccontextmanager
async def under_load(kafka: str, postgres: str) -> AsyncIterator[Fault]:
    """Yield a world under load; afterwards everything must be there, nothing stale, nothing set aside."""
    async with world(kafka, postgres) as it:
        it.settings = it.settings.model_copy(update={"statement_timeout_s": 2.0})
        options = f"-c search_path={it.catalogue.namespace}"
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True, options=options) as admin:
            await admin.execute(WATCH)
            fault = Fault(it, admin)
            loading = asyncio.create_task(fault.load())
            try:
                yield fault
            finally:
                fault.stop()
                await loading


async def settled(fault: Fault, role: MemoryRole) -> None:
    """Stop the load; then nothing is lost, stale or set aside."""
    fault.stop()
    await asyncio.sleep(0.1)
    await eventually(lambda: fault.reached(fault.written))
    assert await fault.sql("SELECT count(*) FROM stale") == [(0,)]
    assert await fault.it.dead_letters() == []
    assert role.counts.set_aside == 0


async def test_a_full_disk_is_waited_for(kafka: str, postgres: str) -> None:
    async with under_load(kafka, postgres) as fault, running(fault.it.role()) as role:
        await eventually(lambda: fault.reached(1))
        await fault.sql(FULL)

        async def refused() -> bool:
            return role.counts.failures >= 2

        await eventually(refused)
        await fault.sql("DROP TRIGGER full_disk ON state")
        await settled(fault, role)


async def test_a_deadlock_costs_another_attempt(kafka: str, postgres: str) -> None:
    async with under_load(kafka, postgres) as fault, running(fault.it.role()) as role:
        await eventually(lambda: fault.reached(1))
        options = f"-c search_path={fault.it.catalogue.namespace} -c deadlock_timeout=20s"
        before = await fault.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

        async def rival() -> bool:
            """Lock rows against the sink's order, until the server has had to end one of the two."""
            async with await psycopg.AsyncConnection.connect(postgres, options=options) as connection:
                for owner in reversed(OWNERS):
                    await connection.execute("SELECT FROM state WHERE owner = %s FOR UPDATE", [owner])
                    await asyncio.sleep(0.02)
            return await fault.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") > before

        await eventually(rival)
        await settled(fault, role)


async def test_a_connection_that_hangs_is_given_up_and_harmless_when_it_wakes(kafka: str, postgres: str) -> None:
    async with under_load(kafka, postgres) as fault, running(fault.it.role()) as role:
        await eventually(lambda: fault.reached(1))
        name = f"streams {fault.it.catalogue.namespace}"
        frozen = [
            int(str(pid))
            for (pid,) in await fault.sql(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'")
        ]
        assert frozen
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:

            async def given_up() -> bool:
                return role.counts.failures > 0

            await eventually(given_up)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        await settled(fault, role)


async def test_a_sink_that_wakes_up_late_changes_nothing(kafka: str, postgres: str) -> None:
    async with under_load(kafka, postgres) as fault:
        zombie = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SINK, kafka, postgres, fault.it.catalogue.namespace
        )
        try:
            await eventually(lambda: fault.reached(1))
            os.kill(zombie.pid, signal.SIGSTOP)
            asleep_since = fault.written
            async with running(fault.it.role()) as role:
                await eventually(lambda: fault.reached(asleep_since + 1))
                os.kill(zombie.pid, signal.SIGCONT)
                await asyncio.sleep(1)
                await settled(fault, role)
        finally:
            os.kill(zombie.pid, signal.SIGKILL)
            await zombie.wait()
