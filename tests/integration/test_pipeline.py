"""The product on real Kafka, seen from outside: results, refusals, dead letters, JSON, durability."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel

from streams import App, Client, Context, Handle, Log, PayloadTooLarge, UnknownInvocation
from streams.broker.partitioning import partition_for
from streams.broker.port import LogRecord, Message, Partition
from streams.broker.table import read_to_end
from streams.client.inbox import read_result
from streams.records import decode_as
from streams.records.control import DeadLetter
from tests.integration.running import Running, running, until


class Order(BaseModel):
    customer: str
    cents: int = 0


class Account(BaseModel):
    total: int = 0
    history: Log[int] = Log()


class LimitExceeded(Exception):
    pass


def make_app() -> App:
    app = App("shop")

    @app.tool(timeout=2, effect="read", fallback="unknown")
    async def status(customer: str) -> str:
        if customer == "broken":
            raise RuntimeError("no answer")
        return f"{customer} is active"

    @app.tool(timeout=2, effect="at-most-once", fallback="unconfirmed", raises=(LimitExceeded,))
    async def pay(cents: int) -> str:
        if cents > 100:
            raise LimitExceeded(cents)
        return f"paid {cents}"

    @app.agent(key="customer", state=Account)
    async def buy(ctx: Context[Account], request: Order) -> dict[str, object]:
        about = await status(request.customer)
        try:
            receipt = await pay(request.cents)
        except LimitExceeded as error:
            receipt = f"over the limit with {error.args[0]}"
        ctx.state.total += request.cents
        ctx.state.history.append(request.cents)
        return {"about": about, "receipt": receipt, "total": ctx.state.total, "orders": len(ctx.state.history)}

    @app.agent(key="customer")
    async def nap(ctx: Context[None], request: Order) -> str:
        await asyncio.sleep(request.cents / 1000)
        approved = await ctx.signal("approval", bool, timeout=30)
        return f"approved: {approved}"

    @app.agent(key="customer")
    async def parent(ctx: Context[None], request: Order) -> str:
        child = app.latest("buy")
        bought = await asyncio.gather(*(child(Order(customer=f"child-{n}", cents=n)) for n in range(3)))
        return ", ".join(str(one["receipt"]) for one in bought)

    return app


async def test_an_invocation_ends_in_one_result_with_state_and_tools(kafka: str):
    async with running(make_app(), kafka) as system:
        first = await (await system.client.submit("buy", {"customer": "ann", "cents": 5})).result(timeout=30)
        assert first.value == {"about": "ann is active", "receipt": "paid 5", "total": 5, "orders": 1}
        assert (first.status, first.degraded, first.steps) == ("succeeded", False, 2)
        second = await (await system.client.submit("buy", {"customer": "ann", "cents": 200})).result(timeout=30)
        assert second.value["receipt"] == "over the limit with 200"
        assert second.value["total"] == 205
        broken = await (await system.client.submit("buy", {"customer": "broken"})).result(timeout=30)
        assert broken.degraded
        assert broken.value["about"] == "unknown"
        family = await (await system.client.submit("parent", {"customer": "p"})).result(timeout=30)
        assert family.value == "paid 0, paid 1, paid 2"


async def test_the_same_id_is_the_same_invocation(kafka: str):
    async with running(make_app(), kafka) as system:
        order = {"customer": "ann", "cents": 5}
        first = await (await system.client.submit("buy", order, idempotency_key="k")).result(timeout=30)
        again = await (await system.client.submit("buy", order, idempotency_key="k")).result(timeout=30)
        assert again.repeated
        assert again.value == first.value
        other = await system.client.submit("buy", {"customer": "ann", "cents": 6}, idempotency_key="k")
        conflict = await other.result(timeout=30)
        assert (conflict.status, conflict.error_type) == ("failed", "Conflict")
        late = await system.client.handle("buy/ann/k").result(timeout=30)
        assert late.value == first.value
        with pytest.raises(UnknownInvocation):
            await system.client.handle("buy/ann/never").result(timeout=30)


async def test_bad_input_gets_a_failed_result_that_names_it(kafka: str):
    async with running(make_app(), kafka) as system, Client("elsewhere", settings=system.settings) as stranger:
        unknown = await (await stranger.submit("nobody/ann", {})).result(timeout=30)
        assert unknown.error_type == "UnknownName"
        assert "no agent 'nobody'; it has buy, nap, parent" in unknown.error_message
        invalid = await (await stranger.submit("buy/ann", {"customer": "ann", "cents": "many"})).result(timeout=30)
        assert (invalid.error_type, invalid.error_field) == ("InvalidInput", "cents")
        misplaced = await (await stranger.submit("buy/bob", {"customer": "ann"})).result(timeout=30)
        assert "'buy/bob'" in misplaced.error_message
        assert "'buy/ann'" in misplaced.error_message
        with pytest.raises(PayloadTooLarge, match=r"exceeds 1\.00 MB"):
            await stranger.submit("buy/ann", {"customer": "x" * 1_100_000})


async def test_what_cannot_be_decoded_goes_to_dead_letters_with_its_bytes(kafka: str):
    async with running(make_app(), kafka) as system, system.broker.producer() as producer:
        topic = system.topic("invocations")
        (offset,) = await producer.send(Message(topic, b"buy/ann", b"\x00garbage", 2, (("x", b"y"),)))
        await (await system.client.submit("buy", {"customer": "ann"})).result(timeout=30)
        found = await dead_letters(system, 2)
        letter = decode_as(DeadLetter, found[0].value or b"")
        assert (letter.topic, letter.partition, letter.offset, letter.value) == (topic, 2, offset, b"\x00garbage")
        assert letter.headers == {"x": b"y"}
        assert "are not an Avro single object" in letter.reason


async def test_json_in_and_out_with_nothing_but_a_kafka_client(kafka: str):
    async with running(make_app(), kafka, shards={"results_as": "json"}) as system:
        consumer = AIOKafkaConsumer(
            system.topic("results"), bootstrap_servers=kafka, isolation_level="read_committed",
            auto_offset_reset="earliest",
        )  # fmt: skip
        producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
        await consumer.start()
        await producer.start()
        try:
            body = {"agent": "buy", "input": {"customer": "ann", "cents": 7}, "idempotency_key": "evt-1"}
            header = [("content-type", b"application/json")]
            # Deliberately on the partition of no agent in particular: the shard forwards it to the right one.
            for partition in range(4):
                await producer.send_and_wait(
                    system.topic("invocations"), orjson.dumps(body), b"buy/ann", partition, headers=header
                )
            record = await asyncio.wait_for(consumer.getone(), 30)
            result = orjson.loads(record.value or b"")
            assert (result["id"], result["status"]) == ("buy/ann/evt-1", "succeeded")
            assert result["value"]["receipt"] == "paid 7"
            refused = {"agent": "buy", "input": {}, "surprise": 1}
            await producer.send_and_wait(
                system.topic("invocations"), orjson.dumps(refused), b"buy/ann", 0, headers=header
            )
            found = await dead_letters(system, 0)
            assert "unknown field 'surprise'" in decode_as(DeadLetter, found[0].value or b"").reason
        finally:
            await producer.stop()
            await consumer.stop()


async def test_only_read_committed_consumers_see_the_truth_across_an_aborted_transaction(kafka: str):
    async with running(make_app(), kafka) as system:
        handle = await system.client.submit("buy", {"customer": "ann"}, idempotency_key="real")
        await handle.result(timeout=30)
        number = partition_for(b"buy/ann", 4)
        source = Partition(system.topic("results"), number)
        (real,) = await read_all(system, source)
        aborted = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"{system.catalogue.namespace}-stranger")
        await aborted.start()
        await aborted.begin_transaction()
        await aborted.send_and_wait(source.topic, real.value, b"buy/ann", source.number)
        await aborted.abort_transaction()
        await aborted.stop()
        seen: dict[str, int] = {}
        for isolation in ("read_committed", "read_uncommitted"):
            async with system.broker.reader(isolation=isolation) as reader:
                await reader.assign({source: 0})
                records = []
                while batch := await reader.poll(timeout_s=1.0):
                    records += batch[source]
                seen[isolation] = len([r for r in records if read_result(r).id == "buy/ann/real"])
        assert seen == {"read_committed": 1, "read_uncommitted": 2}


async def test_signals_timers_status_and_cancel(kafka: str):
    async with running(make_app(), kafka) as system:
        handle = await system.client.submit("nap", {"customer": "ann", "cents": 50})
        await until_waiting(handle, "signal")
        await handle.signal("approval", True)
        assert (await handle.result(timeout=30)).value == "approved: True"
        other = await system.client.submit("nap", {"customer": "bob", "cents": 60_000})
        waiting = await until_waiting(other, "timer")
        assert waiting["phase"] == "running"
        behind = await system.client.submit("nap", {"customer": "bob"})
        assert (await until_waiting(behind, "mailbox"))["waits_for"][0]["position"] == 1
        await other.cancel("not needed")
        assert (await other.result(timeout=30)).status == "cancelled"
        await behind.cancel()
        assert (await behind.result(timeout=30)).status == "cancelled"


async def test_a_shard_that_is_taken_over_goes_on_where_it_was(kafka: str):
    app = make_app()
    async with running(app, kafka) as system:
        handle = await system.client.submit("nap", {"customer": "ann", "cents": 1})
        await until_waiting(handle, "signal")
        epochs = {n: p.engine.epoch for n, p in system.shards.processors.items()}
        await system.shards.revoked(frozenset(range(4)))
        await system.shards.assigned(frozenset(range(4)))
        await until(lambda: all(p.ready.is_set() for p in system.shards.processors.values()), "all shards are back")
        assert all(p.engine.epoch == epochs[n] + 1 for n, p in system.shards.processors.items())
        await handle.signal("approval", False)
        assert (await handle.result(timeout=30)).value == "approved: False"


async def until_waiting(handle: Handle[Any], kind: str) -> dict[str, Any]:
    for _ in range(600):
        try:
            status = await handle.status()
        except UnknownInvocation:
            status = {"waits_for": []}
        if any(one["kind"] == kind for one in status["waits_for"]):
            return status
        await asyncio.sleep(0.02)
    raise TimeoutError(f"{handle} never waited for a {kind}; it is {status}")


async def read_all(system: Running, *partitions: Partition) -> list[LogRecord]:
    return [record async for batch in read_to_end(system.broker, partitions) for record in batch]


async def dead_letters(system: Running, number: int) -> list[LogRecord]:
    """Return what was set aside on a partition, once there is something."""
    for _ in range(600):
        if found := await read_all(system, Partition(system.topic("dead-letters"), number)):
            return found
        await asyncio.sleep(0.05)
    raise TimeoutError(f"nothing was set aside on partition {number}")
