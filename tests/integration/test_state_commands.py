"""`streams state` and `streams memory` on a real Kafka and two databases: get, history, diff, verify, export, erase."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import BaseModel
from typer.testing import CliRunner

from streams import App, Context, Log
from streams.broker.partitioning import partition_for
from streams.broker.port import Partition
from streams.broker.table import read_to_end
from streams.cli import app as cli
from streams.encryption import EncryptionSettings, protect_payloads
from streams.memory.role import MemoryRole
from tests.integration.running import Running, running

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


KEYS = {"2026": base64.b64encode(os.urandom(32)).decode()}


@pytest.fixture(autouse=True)
def in_the_clear_again() -> Iterator[None]:
    yield
    protect_payloads(EncryptionSettings())


class Note(BaseModel):
    customer: str
    text: str


class Customer(BaseModel):
    last: str = ""
    notes: Log[str] = Log()


def make_app() -> App:
    app = App("keep")

    @app.agent(key="customer", state=Customer)
    async def note(ctx: Context[Customer], request: Note) -> int:
        ctx.state.last = request.text
        ctx.state.notes.append(request.text)
        return len(ctx.state.notes)

    return app


@asynccontextmanager
async def world(kafka: str, dsns: list[str]) -> AsyncIterator[Running]:
    memory = {"dsns": dsns, "flush_interval_s": 0.02}
    async with running(
        make_app(), kafka, roles=("shards",), memory=memory, partitions=4, encryption={"keys": KEYS}
    ) as it:
        sink = asyncio.create_task(MemoryRole(it.broker, it.catalogue, it.settings.memory).run())
        try:
            yield it
        finally:
            sink.cancel()
            await asyncio.wait((sink,))


async def command(it: Running, dsns: list[str], *words: str) -> tuple[int, str]:
    """Run `streams` as a user does; return its exit code and what it printed."""
    environment = {
        "STREAMS_NAMESPACE": it.catalogue.namespace,
        "STREAMS_KAFKA__BOOTSTRAP_SERVERS": it.settings.kafka.bootstrap_servers,
        "STREAMS_ENCRYPTION__KEYS": orjson.dumps(KEYS).decode(),
        "STREAMS_MEMORY__DSNS": orjson.dumps(dsns).decode(),
        "COLUMNS": "200",
    }
    result = await asyncio.to_thread(CliRunner().invoke, cli, words, env=environment)
    return result.exit_code, result.output


def rows(dsn: str, namespace: str, query: str) -> list[tuple[Any, ...]]:
    """Return what a query of a namespace's tables finds."""
    with psycopg.connect(dsn, autocommit=True, options=f"-c search_path={namespace}") as connection:
        found = connection.execute(query.encode())
        return found.fetchall() if found.description else []


@pytest.fixture
def dsns(postgres: str) -> list[str]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        names = [f"keep_{os.urandom(4).hex()}" for _ in range(2)]
        for name in names:
            connection.execute(f"CREATE DATABASE {name}".encode())
    return [make_conninfo(postgres, dbname=name) for name in names]


async def test_state_is_shown_compared_exported_and_erased(kafka: str, dsns: list[str], tmp_path: Path) -> None:
    async with world(kafka, dsns) as it:
        for number in range(3):
            for key in ("ada", "bob", "eve", "joe", "kim", "lea"):
                request = Note(customer=key, text=f"{key} {number}")
                assert (await (await it.client.submit("note", request)).result(30)).succeeded

        async def flushed() -> bool:
            return (await command(it, dsns, "state", "diff", "note/ada"))[0] == 0 and (
                "waits" not in (await command(it, dsns, "state", "verify"))[1]
            )

        await until_true(flushed)
        await the_shards_are_divided(it, dsns)
        await nothing_is_readable(it, dsns)
        code, said = await command(it, dsns, "state", "get", "note/ada", "--json")
        found: dict[str, Any] = {row["record"]: row for row in orjson.loads(said)}
        assert (code, found["last"]["value"], found["last"]["log_and_postgres"]) == (0, "ada 2", "agrees")
        assert found["last"]["version"] == {"note/ada": 3}
        assert len(found) == 4
        code, said = await command(it, dsns, "state", "history", "note/ada", "--record", "last")
        assert code == 0
        assert [f"ada {n}" in said for n in range(3)] == [True, True, True]
        code, said = await command(it, dsns, "state", "export", "--out", str(tmp_path / "all.jsonl"))
        lines = [orjson.loads(line) for line in (tmp_path / "all.jsonl").read_bytes().splitlines()]
        assert (code, len(lines)) == (0, 6 * 4)

        where = dsns[partition_for(b"note/ada", 4) % 2]
        with psycopg.connect(where, autocommit=True) as connection:
            table = f'"{it.catalogue.namespace}".state'
            connection.execute(
                f"UPDATE {table} SET value = '\"lies\"' WHERE owner = 'note/ada' AND record = 'last'".encode()
            )
        code, said = await command(it, dsns, "state", "verify")
        assert code == 1
        assert "note/ada.last differs in Postgres" in said
        assert (await command(it, dsns, "state", "diff", "note/ada"))[0] == 1

        code, said = await command(it, dsns, "state", "erase", "note/ada", "--reason", "asked for", "--yes")
        assert code == 0, said
        assert "4 records deleted, 3 results emptied" in said
        assert "for 7 days (history)" in said
        left = "SELECT count(value), count(*) FROM state WHERE owner = 'note/ada'"
        assert rows(where, it.catalogue.namespace, left) == [(0, 4)]
        history = "SELECT count(*) FROM invocations WHERE owner = 'note/ada'"
        assert rows(where, it.catalogue.namespace, history) == [(0,)]
        assert (await command(it, dsns, "state", "verify"))[0] == 0
        again = await (await it.client.submit("note", Note(customer="ada", text="new"))).result(30)
        assert again.value == 1


async def the_shards_are_divided(it: Running, dsns: list[str]) -> None:
    """Each database has the owners of its shards, and no other's."""
    for number, dsn in enumerate(dsns):
        found = rows(dsn, it.catalogue.namespace, "SELECT DISTINCT owner FROM state")
        assert found
        assert {partition_for(owner.encode(), 4) % 2 for (owner,) in found} == {number}
    code, said = await command(it, list(reversed(dsns)), "memory", "migrate", "--check")
    assert code == 1
    assert "put memory.dsns back as they were" in said
    assert (await command(it, dsns, "memory", "migrate"))[1].count("nothing to do") == 2


async def nothing_is_readable(it: Running, dsns: list[str]) -> None:
    """What users put in is sealed in every topic and table."""
    for kind in ("invocations", "journal", "state-deltas", "results"):
        async for batch in read_to_end(it.broker, [Partition(it.topic(kind), number) for number in range(4)]):
            for record in batch:
                assert b"bob 1" not in (record.value or b""), kind
    for dsn in dsns:
        for table in ("state", "invocations"):
            found = rows(dsn, it.catalogue.namespace, f"SELECT value FROM {table} WHERE value IS NOT NULL")
            assert found
            assert all(bytes(value).startswith(b"\x00sealed") for (value,) in found)


async def until_true(check: Any) -> None:
    async with asyncio.timeout(60):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def test_an_id_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(cli, ["state", "get", "customer"])
    assert result.exit_code == 2
    assert "is no agent ID" in result.output
