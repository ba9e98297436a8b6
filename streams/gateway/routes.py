"""The HTTP interface, version 1: what each request asks of the client, and what it is answered."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from streams.agents.agent import Agent
from streams.app import App
from streams.client.client import Client
from streams.client.handle import Handle
from streams.errors import Conflict, InvalidInput, PayloadTooLarge, ResultTimeout, StreamsError, UnknownInvocation
from streams.gateway.accepted import Accepted
from streams.gateway.allowance import Allowances
from streams.gateway.bearer import Bearers
from streams.gateway.bodies import InvocationBody, invalid, parse_invocation, parse_json, parse_wait, read_body
from streams.gateway.documents import ROOT, accepted, as_json, finished, unread
from streams.gateway.events import stream
from streams.gateway.openapi import DOCUMENT, describe
from streams.gateway.problems import Problem, problem_of
from streams.gateway.settings import GatewaySettings
from streams.records.ids import input_digest, invocation_id, split_invocation_id

FINISHED_S = 10.0
"""Seconds to wait for a result that its shard says is there."""

UNREAD_RETRY_S = 0.1
"""Between two questions for an invocation that its shard has yet to read."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

Endpoint = Callable[[Request], Awaitable[Response]]


class Gateway:
    """Serves one application.

    Args:
        client: Connected.
        max_payload_bytes: Bound on inputs and signals.

    Attributes:
        responses: How many were given, by route and status.
    """

    def __init__(self, app: App, client: Client, settings: GatewaySettings, *, max_payload_bytes: int) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self._app = app
        self._client = client
        self._settings = settings
        self._max_payload_bytes = max_payload_bytes
        self._bearers = Bearers(settings.tokens)
        self._accepted = Accepted()
        self._allowances = Allowances(settings.limits)
        self._document = describe(app, settings)
        self._get_one = self._counted("get", self._get)
        self._cancel_one = self._counted("cancel", self._cancel)

    def asgi(self) -> ASGIApp:
        """Return it as an ASGI application."""
        one = f"{ROOT}/{{id:path}}"
        routes = [
            Route(DOCUMENT, self._counted("openapi", self._openapi), methods=["GET"]),
            Route(ROOT, self._counted("submit", self._submit), methods=["POST"]),
            Route(f"{one}/signals/{{name}}", self._counted("signal", self._signal), methods=["POST"]),
            Route(f"{one}/events", self._counted("events", self._events), methods=["GET"]),
            Route(one, self._one, methods=["GET", "DELETE"]),
        ]
        middleware = []
        if self._settings.cors_origins:
            origins = list(self._settings.cors_origins)
            methods = ["GET", "POST", "DELETE"]
            middleware.append(
                Middleware(
                    CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"],
                    expose_headers=["Location", "Retry-After", "RateLimit", "RateLimit-Policy"],
                )
            )  # fmt: skip
        return Starlette(routes=routes, exception_handlers={404: _not_here, 405: _not_here}, middleware=middleware)

    def _counted(self, route: str, endpoint: Endpoint) -> Endpoint:
        async def counted(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except Problem as problem:
                response = problem.response()
            except StreamsError as error:
                response = problem_of(error).response()
            self.responses[route, response.status_code] += 1
            return response

        return counted

    async def _one(self, request: Request) -> Response:
        """Serve both methods of one route, so that a third is told of both."""
        return await (self._cancel_one if request.method == "DELETE" else self._get_one)(request)

    # -- submitting ----------------------------------------------------------------------------------------------------

    async def _submit(self, request: Request) -> Response:
        bearer = self._tenant(request)
        wait_s = parse_wait(request.query_params.get("wait"), self._settings.max_wait_s)
        data = await read_body(request, self._max_payload_bytes, self._settings.body_timeout_s)
        body = parse_invocation(data, request.headers.get("idempotency-key"))
        if bearer is not None and body.tenant not in (None, bearer):
            raise Problem(403, "Forbidden", f"the token is not one of tenant {body.tenant!r}", field="tenant")
        tenant = (body.tenant or "") if bearer is None else bearer
        agent, value, digest = self._read_input(body)
        self._refuse_other_input(agent, value, body, digest)
        headers = self._allowances.take(tenant, asyncio.get_running_loop().time())
        handle = await self._client.submit(
            agent,
            value,
            idempotency_key=body.idempotency_key,
            priority=body.priority,
            tenant=tenant,
            traceparent=_traceparent(request),
        )
        self._accepted.add(handle.invocation_id, tenant, digest)
        response = await self._answer(handle, wait_s)
        response.headers.update(headers)
        return response

    def _read_input(self, body: InvocationBody) -> tuple[Agent[Any, Any], Any, bytes]:
        """Return the agent, its input, and the input's digest."""
        agent = self._app.latest(body.agent)
        encoded = to_json(body.input)
        if len(encoded) > self._max_payload_bytes:
            what = f"input of agent {agent.name!r}"
            raise PayloadTooLarge(what, len(encoded), self._max_payload_bytes, "max_payload_bytes")
        value = agent.parse(encoded)
        return agent, value, input_digest(encoded)

    def _refuse_other_input(self, agent: Agent[Any, Any], value: Any, body: InvocationBody, digest: bytes) -> None:
        """Refuse a key that the input does not give, and an ID that was accepted here with another input.

        Of an ID that came from elsewhere the shard knows, and says so in the result.
        """
        derived = agent.key_of(value)
        if body.key not in (None, derived):
            raise invalid(f"key {body.key!r} is not the one that the input gives, {derived!r}; leave it out", "key")
        if body.idempotency_key is None:
            return
        identity = invocation_id(agent.name, derived, body.idempotency_key)
        promise = self._accepted.get(identity)
        if promise is not None and promise.digest != digest:
            raise Conflict(f"{identity} was used before with another input; use another idempotency key")

    async def _answer(self, handle: Handle[Any], wait_s: float) -> Response:
        if wait_s:
            try:
                return finished(await handle.result(wait_s))
            except ResultTimeout:
                pass  # it goes on
        return accepted(handle.invocation_id)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> Response:
        tenant = self._tenant(request)
        wait_s = parse_wait(request.query_params.get("wait"), self._settings.max_wait_s)
        handle = self._handle(request)
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        while True:
            try:
                response = await self._look(handle, max(0.0, until - clock()), tenant)
                self._accepted.known(handle.invocation_id)
                return response
            except UnknownInvocation:
                if not self._accepted.is_unread(handle.invocation_id):
                    raise
                self._check_promised(handle.invocation_id, tenant)
            if clock() >= until:
                return unread(handle.invocation_id)
            await asyncio.sleep(UNREAD_RETRY_S)

    async def _look(self, handle: Handle[Any], wait_s: float, tenant: str | None) -> Response:
        if wait_s:
            try:
                return self._shown(await handle.result(wait_s), tenant)
            except ResultTimeout:
                pass  # its status says why
        status = await handle.status()
        _check_owner(handle.invocation_id, status["tenant"], tenant)
        if status["phase"] == "finished":
            return self._shown(await handle.result(FINISHED_S), tenant)
        return as_json(status)

    async def _events(self, request: Request) -> Response:
        tenant = self._tenant(request)
        handle = self._handle(request)
        await self._check_mine(handle, tenant)

        async def standing() -> dict[str, Any] | None:
            try:
                status = await handle.status()
            except UnknownInvocation:
                return None
            self._accepted.known(handle.invocation_id)
            return status

        return stream(handle, standing, self._settings.max_stream_s)

    # -- telling -------------------------------------------------------------------------------------------------------

    async def _signal(self, request: Request) -> Response:
        tenant = self._tenant(request)
        handle = self._handle(request)
        data = await read_body(request, self._max_payload_bytes, self._settings.body_timeout_s)
        value = parse_json(data) if data else None
        await self._check_mine(handle, tenant)
        await handle.signal(request.path_params["name"], value, signal_id=request.headers.get("idempotency-key"))
        return accepted(handle.invocation_id)

    async def _cancel(self, request: Request) -> Response:
        tenant = self._tenant(request)
        handle = self._handle(request)
        await self._check_mine(handle, tenant)
        await handle.cancel()
        return accepted(handle.invocation_id)

    async def _openapi(self, request: Request) -> Response:
        self._tenant(request)
        return as_json(self._document)

    # -- whose it is ---------------------------------------------------------------------------------------------------

    def _tenant(self, request: Request) -> str | None:
        return self._bearers.tenant_of(request.headers.get("authorization", ""), datetime.now(UTC))

    def _handle(self, request: Request) -> Handle[Any]:
        identity = request.path_params["id"]
        try:
            split_invocation_id(identity)
        except InvalidInput as error:
            raise Problem(404, UnknownInvocation.__name__, str(error)) from None
        return self._client.handle(identity)

    async def _check_mine(self, handle: Handle[Any], tenant: str | None) -> None:
        """Make sure that an invocation exists and belongs to the tenant; to another one there is none."""
        identity = handle.invocation_id
        if self._accepted.get(identity) is not None:
            self._check_promised(identity, tenant)
            return
        _check_owner(identity, (await handle.status())["tenant"], tenant)

    def _check_promised(self, identity: str, tenant: str | None) -> None:
        promise = self._accepted.get(identity)
        if promise is not None:
            _check_owner(identity, promise.tenant, tenant)

    def _shown(self, result: Any, tenant: str | None) -> Response:
        _check_owner(result.invocation_id, result.record.tenant, tenant)
        return finished(result)


def _check_owner(identity: str, owner: str, tenant: str | None) -> None:
    if tenant is not None and owner != tenant:
        raise UnknownInvocation(f"no shard knows {identity}")


def _traceparent(request: Request) -> str:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else ""


async def _not_here(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    detail = f"{request.method} {request.url.path} is not here; {DOCUMENT} says what is"
    kind = "NotFound" if status == 404 else "MethodNotAllowed"
    return Problem(status, kind, detail, headers=getattr(error, "headers", None)).response()
