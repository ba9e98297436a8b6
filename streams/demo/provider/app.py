"""The mock provider as an ASGI app.

    POST /v1/chat/completions   the protocol; `x-client-request-id` is counted, so that repeats are seen
    GET  /v1/models             the models it was asked for (it takes any)
    GET  /stats[?ids=1]         what it saw
    POST /control               change any field of `MockConfig`; other limits or keys start with full buckets
    POST /reset                 forget what it saw; buckets full
    /NAME/...                   apps mounted beside it, such as the demo's bank

What a request uses is known before it is answered, so input and output tokens are counted when it comes in, and count
whether it then fails or not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qs

import orjson
from pydantic import ValidationError

from streams.demo.asgi import ASGIApp, RawHeaders, Receive, Scope, Send, read_body, send_bytes, send_json
from streams.demo.provider import wire
from streams.demo.provider.answers import Answer, Json, Responder, echo
from streams.demo.provider.config import Limits, MockConfig
from streams.demo.provider.meter import KeyMeters, Refusal
from streams.demo.provider.payments import settle
from streams.demo.provider.requests import BadRequest, input_tokens, parse
from streams.demo.provider.stats import Stats

CHAT = "/v1/chat/completions"


def answer(messages: Sequence[Json], tools: Sequence[Json], response_format: Json | None) -> Answer:
    """The default responder: settles payment disputes, echoes everything else."""
    return settle(messages, tools) or echo(messages, tools, response_format)


class MockApp:
    """ASGI app that answers as *responder* says, within the limits of *config*.

    Args:
        config: What to do.
        responder: What to say.
        mounts: Apps by the first part of their path.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        config: MockConfig | None = None,
        responder: Responder = answer,
        mounts: Mapping[str, ASGIApp] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config = config or MockConfig()
        self.stats = Stats()
        self._responder = responder
        self._mounts = dict(mounts or {})
        self._clock_ns = clock_ns
        self._chance = random.Random(self.config.seed)
        self._meters: dict[str, KeyMeters] = {}
        self._models: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == CHAT and scope["method"] == "POST":
            await self._chat(scope, receive, send)
            return
        first, _, rest = path.lstrip("/").partition("/")
        if mounted := self._mounts.get(first):
            await mounted({**scope, "path": f"/{rest}"}, receive, send)
            return
        body = await read_body(receive)
        match scope["method"], path:
            case "GET", "/stats":
                await send_json(
                    send, 200, self.stats.as_json(with_ids="ids" in parse_qs(scope["query_string"].decode()))
                )
            case "GET", "/v1/models":
                models = [{"id": name, "object": "model"} for name in sorted(self._models)]
                await send_json(send, 200, {"object": "list", "data": models})
            case "POST", "/control":
                try:
                    changes = orjson.loads(body)
                    config = MockConfig.model_validate({**self.config.model_dump(), **changes})
                except (ValidationError, orjson.JSONDecodeError, TypeError) as error:
                    await send_bytes(send, 400, wire.error(str(error), "invalid_request_error"))
                    return
                self.configure(config)
                await send_bytes(send, 200, config.model_dump_json().encode())
            case "POST", "/reset":
                self.reset()
                await send_json(send, 200, {})
            case _:
                message = f"Unknown request URL: {scope['method']} {path}"
                await send_bytes(send, 404, wire.error(message, "invalid_request_error", code="unknown_url"))

    def configure(self, config: MockConfig) -> None:
        """Behave differently from now on. Keys whose limits change start again with full buckets."""
        old, self.config = self.config, config
        if config.seed != old.seed:
            self._chance = random.Random(config.seed)
        if (config.limits, config.keys) != (old.limits, old.keys):
            self._meters = {}

    def reset(self) -> None:
        """Forget what was seen, refill every bucket and start the seed again; open requests go on, uncounted."""
        self.stats, self._meters = Stats(), {}
        self._chance = random.Random(self.config.seed)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        key, request_id = _identify(scope["headers"])
        stats, config = self.stats, self.config
        if request_id:
            stats.asked(request_id)
        if config.outage == "hang":
            await self._hang(key, stats, receive)
            return
        if config.outage == "error":
            message = "The server is overloaded or not ready yet."
            await _refuse(stats, key, send, 503, wire.error(message, "server_error", code="service_unavailable"))
            return
        limits = self._limits_of(key)
        if limits is None:
            message = (
                f"Incorrect API key provided: {key[:3]}***. You can find your API key in the mock's configuration."
            )
            problem = wire.error(message, "invalid_request_error", code="invalid_api_key")
            await _refuse(stats, key, send, 401, problem)
            return
        try:
            request = parse(body)
            tools = () if request.get("tool_choice") == "none" else request.get("tools") or ()
            said = self._responder(request["messages"], tools, request.get("response_format"))
        except ValueError as error:
            param, code = (error.param, error.code) if isinstance(error, BadRequest) else (None, None)
            problem = wire.error(str(error), "invalid_request_error", param=param, code=code)
            await _refuse(stats, key, send, 400, problem)
            return
        self._models.add(request["model"])
        bound = request.get("max_completion_tokens") or request.get("max_tokens")
        completion = wire.complete(said, body, request["model"], input_tokens(request), bound, int(time.time()))
        await self._admit(key, limits, request, completion, receive, send)

    async def _admit(
        self, key: str, limits: Limits, request: Json, completion: wire.Completion, receive: Receive, send: Send
    ) -> None:
        now_ns, stats = self._clock_ns(), self.stats
        meters = self._meters.get(key)
        if meters is None:
            meters = self._meters[key] = KeyMeters(limits, now_ns)
        refusal = meters.grant(completion.input_tokens, completion.output_tokens, now_ns)
        told = meters.headers(now_ns)
        if refusal:
            stats.refused_by[refusal.what] += 1
            problem, back_off = _explain(refusal, key, request["model"], self.config)
            await _refuse(stats, key, send, 429, problem, [*told, *back_off])
            return
        stats.granted(key, completion.input_tokens, completion.output_tokens, meters.open, now_ns)
        try:
            await self._serve(key, stats, request, completion, told, receive, send)
        finally:
            meters.end()
            stats.open -= 1

    async def _serve(
        self,
        key: str,
        stats: Stats,
        request: Json,
        completion: wire.Completion,
        told: RawHeaders,
        receive: Receive,
        send: Send,
    ) -> None:
        config, chance = self.config, self._chance
        # Always three draws, so that changing one rate does not change what happens to the requests after.
        hangs, fails = chance.random() < config.hang_rate, chance.random() < config.error_rate
        latency_s = config.latency_s(chance)
        if hangs:
            await self._hang(key, stats, receive)
            return
        if latency_s:
            await asyncio.sleep(latency_s)
        if fails:
            message = "The server had an error while processing your request. Sorry about that!"
            await _refuse(stats, key, send, 500, wire.error(message, "server_error"), told)
            return
        stats.by_key[key].by_status[200] += 1
        identified = [*told, (b"x-request-id", completion.id.encode())]
        if not request.get("stream"):
            await send_bytes(send, 200, wire.whole(completion), identified)
            return
        stats.streamed += 1
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind, *identified]})
        with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        for event in wire.events(completion, with_usage=with_usage):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if config.chunk_gap_s:
                await asyncio.sleep(config.chunk_gap_s)
        await send({"type": "http.response.body", "body": wire.DONE})

    async def _hang(self, key: str, stats: Stats, receive: Receive) -> None:
        stats.by_key[key].by_status[0] += 1
        try:
            async with asyncio.timeout(self.config.hang_s):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            pass  # uvicorn answers 500 for an app that returns without having answered

    def _limits_of(self, key: str) -> Limits | None:
        keys = self.config.keys
        return self.config.limits if keys is None else keys.get(key)


def _identify(headers: RawHeaders) -> tuple[str, str]:
    key = request_id = ""
    for name, value in headers:
        if name == b"authorization":
            key = value.decode("latin-1").removeprefix("Bearer ").strip()
        elif name == b"x-client-request-id":
            request_id = value.decode("latin-1")
    return key, request_id


def _explain(refusal: Refusal, key: str, model: str, config: MockConfig) -> tuple[bytes, RawHeaders]:
    if refusal.wait_ns is None:
        message = (
            f"Request too large for {model} in key {key[:3]}*** on {refusal.what} per min: "
            f"limit {refusal.limit}, requested {refusal.asked}."
        )
        return wire.error(message, refusal.what, code="rate_limit_exceeded"), ()
    # Nobody knows when a concurrent call ends; the median latency is as good a guess as any.
    concurrent = refusal.what == "concurrency"
    wait_s = max(config.latency_p50_s, 0.01) if concurrent else refusal.wait_ns / 1e9
    message = (
        f"Rate limit reached for {model} in key {key[:3]}*** on {refusal.what}{'' if concurrent else ' per min'}: "
        f"limit {refusal.limit}, used {refusal.used}, requested {refusal.asked}. Please try again in {wait_s:.3f}s."
    )
    # Rounded up: whoever obeys comes back in time.
    milliseconds = int(-(-wait_s * 1000 // 1))
    back_off = ((b"retry-after-ms", b"%d" % milliseconds), (b"retry-after", b"%d" % -(-milliseconds // 1000)))
    return wire.error(message, refusal.what, code="rate_limit_exceeded"), back_off


async def _refuse(stats: Stats, key: str, send: Send, status: int, problem: bytes, headers: RawHeaders = ()) -> None:
    stats.by_key[key].by_status[status] += 1
    await send_bytes(send, status, problem, headers)
