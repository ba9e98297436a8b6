"""The grants that `streams topics acls` prints are enough for every role, and no more: on a broker that authorizes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from pydantic import BaseModel

from streams import App, Client, Context, Settings
from streams.broker import Broker, Message, Partition
from streams.broker.acls import Grant, acls
from streams.broker.connect import open_broker
from streams.broker.embedded import EmbeddedKafka
from streams.broker.kafka import KafkaSettings
from streams.broker.topics import create_namespace, differences, ensure_partitions
from streams.cli.roles import make_role
from streams.errors import BrokerError
from streams.records.topics import Role

PASSWORD = "secret"
RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
OPERATIONS = {
    "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Describe": 8, "DescribeConfigs": 10, "AlterConfigs": 11
}  # fmt: skip
LITERAL, PREFIXED, ALLOW = 3, 4, 3


class Ask(BaseModel):
    who: str


def make_app() -> App:
    app = App("guarded")

    @app.tool(timeout=5, effect="at-most-once", fallback="unconfirmed")
    async def pay(who: str) -> str:
        return f"paid {who}"

    @app.agent(key="who")
    async def settle(ctx: Context[None], request: Ask) -> str:
        return await pay(request.who)

    return app


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    users = {f"guarded-{role}": PASSWORD for role in get_args(Role)}
    with EmbeddedKafka(tmp_path, sasl=users, authorizer=True) as kafka:
        yield kafka


def settings_of(kafka: EmbeddedKafka, role: str, postgres: str) -> Settings:
    """Return the settings of a process that runs *role* and nothing else."""
    connection = KafkaSettings.model_validate(
        {
            "bootstrap_servers": kafka.sasl_bootstrap,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": f"guarded-{role}",
            "sasl_password": PASSWORD,
        }
    )
    return Settings(kafka=connection, memory={"dsn": postgres})


async def give(bootstrap_servers: str, grants: list[Grant]) -> None:
    """Do what the lines for kafka-acls.sh do, without a JVM for each of them."""
    client: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await client.start()
    try:
        for grant in grants:
            for operation in grant.operations:
                pattern = PREFIXED if grant.prefixed else LITERAL
                request = CreateAclsRequest(
                    RESOURCES[grant.resource], grant.name, pattern, grant.principal, "*", OPERATIONS[operation], ALLOW
                )
                response = await client._send_to_controller(request)
                assert [creation[0] for creation in response.creation_responses] == [0], grant
    finally:
        await client.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 30.0) -> None:
    """Wait for what the roles write sooner or later."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110 - the log gives no event
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"no {what} after {timeout_s:g} s") from None


@asynccontextmanager
async def brokers(kafka: EmbeddedKafka, postgres: str) -> AsyncIterator[dict[str, Broker]]:
    """Yield a connection of each principal."""
    opened = {role: open_broker(settings_of(kafka, role, postgres).kafka_for_payloads()) for role in get_args(Role)}
    try:
        yield opened
    finally:
        for broker in opened.values():
            await broker.close()


@pytest.mark.slow
async def test_every_role_works_with_its_grants_and_no_others(guarded: EmbeddedKafka, postgres: str) -> None:
    app = make_app()
    catalogue = settings_of(guarded, "operators", postgres).catalogue(app.name, dict(app.lanes()))
    await give(guarded.bootstrap, acls(catalogue))
    async with brokers(guarded, postgres) as of:
        operators = of["operators"].admin
        await create_namespace(operators, catalogue, 1)
        assert await differences(operators, catalogue, 1) == []

        roles = ("shards", "tools", "llm", "memory", "control")
        for role in roles:
            await ensure_partitions(of[role].admin, catalogue)
        made = [make_role(r, app, of[r], catalogue, settings_of(guarded, r, postgres)) for r in roles]  # type: ignore[arg-type]
        running = [asyncio.create_task(role.run()) for role in made]
        try:
            async with Client(app, settings=settings_of(guarded, "clients", postgres)) as client:
                handle = await client.submit("settle", Ask(who="ann"))
                result = await handle.result(timeout=60)
                assert (result.value, result.degraded) == ("paid ann", False)
            async with Client(app, settings=settings_of(guarded, "operators", postgres)) as client:
                assert await client.order("pause", "settle", reason="a test", by="me") == "paused"
                status = await client.handle(handle.invocation_id).status()
                assert status["phase"] == "finished"

            async def written(kind: str) -> bool:
                places = [Partition(catalogue.name(kind), number) for number in range(catalogue.partitions)]
                places = places[:1] if kind == "backpressure" else places
                return sum((await operators.end_offsets(places)).values()) > 0

            async def flushed() -> bool:
                places = [Partition(catalogue.name("results"), number) for number in range(catalogue.partitions)]
                return sum((await operators.group_offsets("guarded-memory-sink", places)).values()) > 0

            for kind in ("backpressure", "tool-claims", "outcomes"):
                await until(partial(written, kind), kind)
            await until(flushed, "positions of the memory sink")
            assert not [task for task in running if task.done()]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        for role, kind in (("shards", "invocations"), ("tools", "tool-overflow"), ("llm", "llm-requests")):
            await of[role].admin.delete_records({Partition(catalogue.name(kind), 0): 0})
        forged = Message(catalogue.name("results"), b"settle/ann", b"forged", 0)
        for role in ("clients", "tools", "llm", "memory", "control"):
            with pytest.raises(BrokerError):
                async with of[role].producer() as producer:
                    await producer.send(forged)
        thief = of["tools"].ring("guarded-shard-0")
        with pytest.raises(BrokerError):
            await thief.start()
        await thief.close()
