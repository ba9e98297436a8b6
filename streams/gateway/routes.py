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
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.app import App
from streams.client.client import Client
from streams.client.handle import Handle
from streams.errors import InvalidInput, PayloadTooLarge, ResultTimeout, StreamsError, UnknownInvocation
from streams.gateway.bearer import Bearers
from streams.gateway.bodies import invalid, parse_invocation, parse_json, parse_wait, read_body
from streams.gateway.documents import ROOT, accepted, as_json, finished, unread
from streams.gateway.problems import Problem, problem_of
from streams.gateway.settings import GatewaySettings
from streams.gateway.unread import Unread
from streams.records.ids import split_invocation_id

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
        self._unread = Unread()

    def asgi(self) -> Starlette:
        """Return it as an ASGI application."""
        one = f"{ROOT}/{{id:path}}"
        routes = [
            Route(ROOT, self._counted("submit", self._submit), methods=["POST"]),
            Route(f"{one}/signals/{{name}}", self._counted("signal", self._signal), methods=["POST"]),
            Route(one, self._counted("get", self._get), methods=["GET"]),
            Route(one, self._counted("cancel", self._cancel), methods=["DELETE"]),
        ]
        return Starlette(routes=routes, exception_handlers={404: _not_here, 405: _not_here})

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

    async def _submit(self, request: Request) -> Response:
        tenant = self._tenant(request)
        wait_s = parse_wait(request.query_params.get("wait"), self._settings.max_wait_s)
        data = await read_body(request, self._max_payload_bytes, self._settings.body_timeout_s)
        body = parse_invocation(data, request.headers.get("idempotency-key"))
        if tenant is not None and body.tenant not in (None, tenant):
            raise Problem(403, "Forbidden", f"the token is not one of tenant {body.tenant!r}", field="tenant")
        agent = self._app.latest(body.agent)
        encoded = to_json(body.input)
        if len(encoded) > self._max_payload_bytes:
            what = f"input of agent {agent.name!r}"
            raise PayloadTooLarge(what, len(encoded), self._max_payload_bytes, "max_payload_bytes")
        value = agent.parse(encoded)
        derived = agent.key_of(value)
        if body.key not in (None, derived):
            raise invalid(f"key {body.key!r} is not the one that the input gives, {derived!r}; leave it out", "key")
        handle = await self._client.submit(
            agent,
            value,
            idempotency_key=body.idempotency_key,
            priority=body.priority,
            tenant=(body.tenant or "") if tenant is None else tenant,
            traceparent=_traceparent(request),
        )
        if wait_s:
            try:
                return finished(await handle.result(wait_s))
            except ResultTimeout:
                pass  # it goes on
        self._unread.add(handle.invocation_id)
        return accepted(handle.invocation_id)

    async def _get(self, request: Request) -> Response:
        tenant = self._tenant(request)
        wait_s = parse_wait(request.query_params.get("wait"), self._settings.max_wait_s)
        handle = self._handle(request)
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        while True:
            try:
                response = await self._look(handle, max(0.0, until - clock()), tenant)
                self._unread.known(handle.invocation_id)
                return response
            except UnknownInvocation:
                if handle.invocation_id not in self._unread:
                    raise
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
        if status["phase"] == "finished":
            return self._shown(await handle.result(FINISHED_S), tenant)
        return as_json(status)

    async def _signal(self, request: Request) -> Response:
        self._tenant(request)
        handle = self._handle(request)
        data = await read_body(request, self._max_payload_bytes, self._settings.body_timeout_s)
        value = parse_json(data) if data else None
        await handle.signal(request.path_params["name"], value, signal_id=request.headers.get("idempotency-key"))
        return accepted(handle.invocation_id)

    async def _cancel(self, request: Request) -> Response:
        self._tenant(request)
        handle = self._handle(request)
        await handle.cancel()
        return accepted(handle.invocation_id)

    def _tenant(self, request: Request) -> str | None:
        return self._bearers.tenant_of(request.headers.get("authorization", ""), datetime.now(UTC))

    def _handle(self, request: Request) -> Handle[Any]:
        identity = request.path_params["id"]
        try:
            split_invocation_id(identity)
        except InvalidInput as error:
            raise Problem(404, UnknownInvocation.__name__, str(error)) from None
        return self._client.handle(identity)

    def _shown(self, result: Any, tenant: str | None) -> Response:
        """Show a result to the tenant that asked for it; to another one there is no such invocation."""
        if tenant is not None and result.record.tenant != tenant:
            raise UnknownInvocation(f"no shard knows {result.invocation_id}")
        return finished(result)


def _traceparent(request: Request) -> str:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else ""


async def _not_here(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    detail = f"{request.method} {request.url.path} is not here; there is POST {ROOT}, GET and DELETE {ROOT}/ID"
    return Problem(status, "NotFound" if status == 404 else "MethodNotAllowed", detail).response()
