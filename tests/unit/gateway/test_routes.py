"""The gateway over a simulated log with real shards behind it, asked through ASGI."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from pydantic import BaseModel, SecretStr

from streams import App, Client, Context, Settings
from streams.broker.partitioning import partition_for
from streams.broker.port import Message, TopicSpec
from streams.broker.simulated import SimulatedBroker, SimulatedLog
from streams.broker.simulated.timing import Timing
from streams.gateway import GatewaySettings, TokenSettings
from streams.gateway.accepted import Accepted
from streams.gateway.routes import Gateway
from streams.gateway.settings import TenantLimit
from streams.records import encode
from streams.records.control import BackpressureSignal
from streams.records.ids import agent_of
from streams.records.steps import TokenChunk
from streams.shards.role import ShardRole

pytestmark = pytest.mark.asyncio(loop_scope="module")

app = App("shop")


class Order(BaseModel):
    customer: str
    amount: int


@app.agent(key="customer")
async def order(ctx: Context[None], request: Order) -> int:
    if request.amount == 0:
        raise ValueError("nothing to buy")
    return request.amount * 2


@app.agent(key="customer")
async def approve(ctx: Context[None], request: Order) -> bool:
    return await ctx.signal("approval", bool, timeout=60)


ACME, OTHER = "acme-" + "0" * 20, "other-" + "0" * 20
TOKENS = (
    TokenSettings(tenant="acme", token=SecretStr(ACME)),
    TokenSettings(tenant="other", token=SecretStr(OTHER)),
)
ORDER = {"agent": "order", "input": {"customer": "c-1", "amount": 21}}
APPROVE = {"agent": "approve", "input": {"customer": "c-1", "amount": 1}}


class Shop:
    def __init__(
        self, http: httpx2.AsyncClient, gateway: Gateway, log: SimulatedLog, broker: SimulatedBroker, topic: str
    ) -> None:
        self.http = http
        self.gateway = gateway
        self.log = log
        self._broker = broker
        self._backpressure = topic

    async def post(self, document: Any, path: str = "", **headers: str) -> httpx2.Response:
        fields = {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
        return await self.http.post(f"/v1/invocations{path}", content=orjson.dumps(document), headers=fields)

    async def get(self, identity: str, query: str = "", **headers: str) -> httpx2.Response:
        return await self.http.get(f"/v1/invocations/{identity}{query}", headers=headers)

    def write_piece(self, invocation: str, index: int, text: str) -> None:
        chunk = encode(TokenChunk(invocation, 0, 1, index, text))
        key = agent_of(invocation).encode()
        self.log.write([Message("shop.tokens", key, chunk, partition_for(key, 2))])

    async def close_the_lane(self, retry_after_s: float) -> None:
        signal = BackpressureSignal(
            lane="invocations",
            level="closed",
            retry_after_s=retry_after_s,
            lag_records=1,
            lag_s=1.0,
            arrival_per_s=0.0,
            drain_per_s=1.0,
            at_ms=int(time.time() * 1000),
            ttl_s=60.0,
        )
        async with self._broker.producer() as producer:
            await producer.send(Message(self._backpressure, b"invocations", encode(signal), 0))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_shop(**gateway: Any) -> AsyncIterator[Shop]:
    settings = Settings(partitions=2, max_payload_bytes=10_000, gateway=GatewaySettings(**gateway))
    catalogue = settings.catalogue("shop")
    log = SimulatedLog(Random(0), timing=Timing(latency_s=(0.0, 0.001), slow_every=0, request_timeout_s=0.5))
    log.create_topics([TopicSpec(p.name, p.partitions, 1, p.config) for p in catalogue.topics()])
    broker = SimulatedBroker(log, "process")
    role = ShardRole(app, broker, catalogue, settings.shards, watch=False)
    shards = asyncio.create_task(role.run())
    try:
        async with Client(app, settings=settings, broker=broker) as client:
            it = Gateway(app, client, settings.gateway, max_payload_bytes=catalogue.max_payload_bytes)
            transport = httpx2.ASGITransport(app=it.asgi())
            async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as http:
                yield Shop(http, it, log, broker, catalogue.name("backpressure"))
    finally:
        shards.cancel()
        await asyncio.wait((shards,))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as it:
        yield it


async def test_a_submission_is_accepted_with_the_place_of_its_result(shop):
    accepted = await shop.post(ORDER, idempotency_key="a 1/2")
    assert accepted.status_code == 202
    assert accepted.headers["location"] == "/v1/invocations/order/c-1/a%201/2"
    result = await shop.http.get(accepted.headers["location"] + "?wait=10")
    assert result.status_code == 200
    assert (result.json()["status"], result.json()["value"]) == ("succeeded", 42)


async def test_waiting_gives_the_result_at_once(shop):
    result = await shop.post(ORDER, "?wait=10")
    assert (result.status_code, result.json()["phase"], result.json()["value"]) == (200, "finished", 42)


async def test_a_failed_invocation_is_shown_with_its_error(shop):
    result = await shop.post({"agent": "order", "input": {"customer": "c-1", "amount": 0}}, "?wait=10")
    assert result.status_code == 200
    assert result.json()["status"] == "failed"
    assert result.json()["error"] == {"type": "ValueError", "message": "nothing to buy", "field": None}


async def test_a_signal_lets_a_waiting_invocation_go_on(shop):
    accepted = await shop.post(APPROVE, idempotency_key="s-1")
    waiting = await shop.get("approve/c-1/s-1", "?wait=0.5")
    assert waiting.json()["phase"] == "running"
    assert waiting.json()["waits_for"][0]["kind"] == "signal"
    assert (await shop.post(True, "/approve/c-1/s-1/signals/approval")).status_code == 202
    result = await shop.http.get(accepted.headers["location"] + "?wait=10")
    assert result.json()["value"] is True


async def test_what_was_accepted_is_never_denied(shop):
    for number in range(20):
        accepted = await shop.post(ORDER, idempotency_key=f"now-{number}")
        seen = await shop.http.get(accepted.headers["location"])
        assert seen.status_code == 200
        assert seen.json()["phase"] in ("accepted", "queued", "running", "finished")


async def test_deleting_cancels(shop):
    await shop.post(APPROVE, idempotency_key="s-2")
    assert (await shop.http.delete("/v1/invocations/approve/c-1/s-2")).status_code == 202
    assert (await shop.get("approve/c-1/s-2", "?wait=10")).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("document", "status", "field"),
    [
        ({"agent": "nobody", "input": {}}, 422, "agent"),
        ({"agent": "order", "input": {"customer": "c-1"}}, 422, "input.amount"),
        ({"agent": "order", "input": {"customer": "c/1", "amount": 1}}, 422, ""),
        ({**ORDER, "key": "c-2"}, 422, "key"),
        ({**ORDER, "colour": "red"}, 422, "colour"),
        ({"agent": "order", "input": {"customer": "c" * 20_000, "amount": 1}}, 413, "input"),
        ({"agent": "order", "input": {"customer": "c" * 80_000, "amount": 1}}, 413, "input"),
    ],
)
async def test_what_does_not_fit_is_refused_with_its_field(shop, document, status, field):
    answer = await shop.post(document)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().get("field", "") == field


async def test_an_id_used_with_another_input_is_a_conflict(shop):
    await shop.post(ORDER, "?wait=10", idempotency_key="once")
    same = await shop.post(ORDER, "?wait=10", idempotency_key="once")
    assert (same.status_code, same.json()["repeated"]) == (200, True)
    other = {"agent": "order", "input": {"customer": "c-1", "amount": 22}}
    conflict = await shop.post(other, "?wait=10", idempotency_key="once")
    assert (conflict.status_code, conflict.json()["type"]) == (409, "urn:agent-streams:Conflict")


@pytest.mark.parametrize("identity", ["order/c-1/never", "order/c-1", "order"])
async def test_an_unknown_invocation_is_404(shop, identity):
    assert (await shop.get(identity)).status_code == 404


async def test_a_closed_lane_tells_when_to_come_back():
    async with open_shop() as shop:
        await shop.close_the_lane(30.0)
        for _ in range(100):
            answer = await shop.post(ORDER)
            if answer.status_code == 429:
                break
            await asyncio.sleep(0.02)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 37


async def test_other_paths_and_methods_are_problems_too(shop):
    assert (await shop.http.get("/v2")).json()["status"] == 404
    assert (await shop.http.put("/v1/invocations/order/c-1/x")).json()["status"] == 405


async def test_responses_are_counted_by_route_and_status():
    async with open_shop() as shop:
        await shop.post(ORDER)
        await shop.post({})
        await shop.get("order/c-1/never")
        assert shop.gateway.responses == {("submit", 202): 1, ("submit", 422): 1, ("get", 404): 1}


async def test_while_the_log_is_away_callers_are_told_to_come_back():
    async with open_shop() as shop:
        shop.log.outage(2.0)
        answer = await shop.post(ORDER)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_tokens_decide_whose_invocation_it_is():
    async with open_shop(tokens=TOKENS) as shop:
        assert (await shop.post(ORDER)).status_code == 401
        assert (await shop.get("order/c-1/t-1")).status_code == 401
        acme, other = f"Bearer {ACME}", f"Bearer {OTHER}"
        mine = await shop.post(ORDER, "?wait=10", authorization=acme, idempotency_key="t-1")
        assert mine.status_code == 200
        assert (await shop.get("order/c-1/t-1", authorization=acme)).status_code == 200
        assert (await shop.get("order/c-1/t-1", authorization=other)).status_code == 404
        assert (await shop.post({**ORDER, "tenant": "acme"}, authorization=other)).status_code == 403


async def test_an_id_is_told_from_the_same_id_with_another_input_at_once(shop):
    assert (await shop.post(ORDER, idempotency_key="now")).status_code == 202
    assert (await shop.post(ORDER, idempotency_key="now")).status_code == 202
    other = {"agent": "order", "input": {"customer": "c-1", "amount": 22}}
    conflict = await shop.post(other, idempotency_key="now")
    assert (conflict.status_code, conflict.json()["type"]) == (409, "urn:agent-streams:Conflict")


async def test_events_tell_where_it_stands_what_is_written_and_the_result():
    async with open_shop() as shop:
        await shop.post(APPROVE, idempotency_key="e-1")
        assert (await shop.get("approve/c-1/e-1", "?wait=1")).json()["phase"] == "running"
        following = asyncio.create_task(shop.get("approve/c-1/e-1/events"))
        follower = shop.gateway._client._tokens
        assert follower is not None
        await until(lambda: bool(follower._followers))
        await asyncio.sleep(1)  # its reader begins, and the shard is asked where it stands
        shop.write_piece("approve/c-1/e-1", 0, "Hel\nlo")
        await shop.post(True, "/approve/c-1/e-1/signals/approval")
        told = await asyncio.wait_for(following, 20)
    assert told.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in told.text.strip().split("\n\n") if block.startswith("event")]
    documents = {kind.removeprefix("event: "): orjson.loads(data.removeprefix("data: ")) for kind, data in events}
    assert documents["status"]["waits_for"][0]["kind"] == "signal"
    assert documents["tokens"] == {"step": 1, "index": 0, "text": "Hel\nlo"}
    assert documents["result"]["value"] is True
    assert events[-1][0] == "event: result"


async def test_a_stream_of_events_ends_after_a_while():
    async with open_shop(max_stream_s=0.3) as shop:
        await shop.post(APPROVE, idempotency_key="e-2")
        told = await asyncio.wait_for(shop.get("approve/c-1/e-2/events"), 20)
    assert told.text.startswith("retry: 1000\n\n")
    assert "event: result" not in told.text


async def test_events_of_an_unknown_invocation_are_404(shop):
    assert (await shop.get("order/c-1/never/events")).status_code == 404


async def test_another_tenant_can_neither_see_nor_touch_an_invocation():
    async with open_shop(tokens=TOKENS) as shop:
        acme, other = {"authorization": f"Bearer {ACME}"}, {"authorization": f"Bearer {OTHER}"}
        await shop.post(APPROVE, idempotency_key="o-1", **acme)
        where = "/v1/invocations/approve/c-1/o-1"
        for forget in (False, True):
            if forget:  # as another gateway, which has not accepted it, would know it: by asking its shard
                shop.gateway._accepted = Accepted()
            assert (await shop.get("approve/c-1/o-1", **other)).status_code == 404
            assert (await shop.get("approve/c-1/o-1/events", **other)).status_code == 404
            assert (await shop.post(True, "/approve/c-1/o-1/signals/approval", **other)).status_code == 404
            assert (await shop.http.delete(where, headers=other)).status_code == 404
        assert (await shop.get("approve/c-1/o-1", **acme)).json()["phase"] == "running"
        assert (await shop.http.delete(where, headers=acme)).status_code == 202


async def test_a_tenant_over_its_limit_is_told_and_others_go_on():
    limits = {"acme": TenantLimit(per_minute=60, burst=2)}
    async with open_shop(tokens=TOKENS, limits=limits) as shop:
        answers = [await shop.post(ORDER, authorization=f"Bearer {ACME}") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[0].headers["ratelimit"] == '"tenant";r=1;t=1'
        assert answers[2].headers["retry-after"] == "1"
        assert answers[2].headers["ratelimit-policy"] == '"tenant";q=60;w=60'
        assert (await shop.post(ORDER, authorization=f"Bearer {OTHER}")).status_code == 202


async def test_pages_of_other_origins_are_let_in_only_where_a_setting_says_so(shop):
    page = {"origin": "https://desk.example", "access-control-request-method": "POST"}
    assert (await shop.http.options("/v1/invocations", headers=page)).status_code == 405
    async with open_shop(cors_origins=("https://desk.example",)) as open_to_one:
        allowed = await open_to_one.http.options("/v1/invocations", headers=page)
        assert allowed.headers["access-control-allow-origin"] == "https://desk.example"
        refused = await open_to_one.http.options("/v1/invocations", headers=page | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
