"""A tool that is one HTTP operation: from its arguments to a request, and from the response to its value.

Connections are kept by the process that runs the calls; what is declared here is only what a call consists of. Secrets
are named as `${NAME}` in headers and filled in from the environment when a request is made, so that they are in no
topic, log or journal.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import quote

import httpx2
import orjson

from streams.errors import ConfigurationError, PayloadTooLarge, Throttled, ToolRefused, Unavailable
from streams.llm.headers import read_headers
from streams.tools.context import call_info

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Where = Literal["path", "query", "header", "body", "whole body"]

METHODS: tuple[str, ...] = get_args(Method)
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
SECRET = re.compile(r"\$\{(\w+)\}")
WORTH_ANOTHER_TRY = frozenset({408, 425})
MAX_RESPONSE_BYTES = 1_000_000
MAX_SHOWN_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class HttpOperation:
    """What a request consists of.

    Attributes:
        url: Absolute, with `{name}` in its path for each argument that belongs there.
        places: Where each argument goes; those of `body` make a JSON object, `whole body` is one.
        headers: Sent with every request; `${NAME}` stands for the environment's variable NAME.
        idempotency_header: Carries the step's idempotency key, where the effect is `idempotent`; empty for none.
    """

    method: str
    url: str
    places: Mapping[str, Where]
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_header: str = ""

    def request(self, client: httpx2.AsyncClient, arguments: Mapping[str, Any]) -> httpx2.Request:
        """Return the request of a call.

        Raises:
            ConfigurationError: A variable of the environment that a header names is not set.
        """
        headers = {name: fill_in(value, name) for name, value in self.headers.items()}
        if self.idempotency_header and (info := call_info()) is not None:
            headers[self.idempotency_header] = info.idempotency_key
        path: dict[str, str] = {}
        query: dict[str, str | list[str]] = {}
        body: Any = {}
        for name, value in arguments.items():
            match self.places.get(name, "query"):
                case "path":
                    path[name] = quote(_text(value), safe="")
                case "query" if value is not None:
                    query[name] = [_text(item) for item in value] if isinstance(value, list) else _text(value)
                case "header" if value is not None:
                    headers[name] = _text(value)
                case "body":
                    body[name] = value
                case "whole body":
                    body = value
        content = None
        if any(where in ("body", "whole body") for where in self.places.values()):
            content = orjson.dumps(body)
            headers.setdefault("content-type", "application/json")
        url = PLACEHOLDER.sub(lambda found: path[found[1]], self.url)
        return client.build_request(self.method, url, params=query or None, headers=headers, content=content)


async def perform(client: httpx2.AsyncClient, request: httpx2.Request, *, text: bool) -> Any:
    """Send a request and return what its response carries: text, or what its JSON says; None for an empty one.

    Raises:
        ToolRefused: The service says that the request is wrong (4xx): asking again would not help.
        Throttled: It wants fewer calls (429).
        Unavailable: It is out (503, 529), and may have said for how long.
        PayloadTooLarge: The response is over its bound.
        httpx2.HTTPError: It cannot be reached, or failed (other 5xx).
    """
    response = await client.send(request, stream=True)
    try:
        content = await _read(response)
    finally:
        await response.aclose()
    said = f"{request.method} {request.url.copy_with(query=None)} answered {response.status_code}"
    if response.status_code in (429, 503, 529):
        pause_s = read_headers(response.headers, time.time()).retry_after_s or 0.0
        raise Throttled(said, pause_s) if response.status_code == 429 else Unavailable(said, pause_s)
    if 400 <= response.status_code < 500 and response.status_code not in WORTH_ANOTHER_TRY:
        words = content.decode(errors="replace")[:MAX_SHOWN_CHARS]
        raise ToolRefused(f"{said}: {words}" if words else said, response.status_code)
    if response.status_code >= 300:
        raise httpx2.HTTPStatusError(said, request=request, response=response)
    if not content:
        return None
    if text:
        return content.decode(response.encoding or "utf-8", errors="replace")
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{said} with what is not JSON: {error}; declare returns=str for text") from None


async def _read(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_RESPONSE_BYTES:
            raise PayloadTooLarge(f"response of {response.url.host}", size, MAX_RESPONSE_BYTES, "MAX_RESPONSE_BYTES")
        parts.append(part)
    return b"".join(parts)


def fill_in(value: str, where: str) -> str:
    """Return *value* with each `${NAME}` replaced by the environment's variable.

    Raises:
        ConfigurationError: It is not set; names it, never a value.
    """

    def one(found: re.Match[str]) -> str:
        secret = os.environ.get(found[1])
        if secret is None:
            raise ConfigurationError(f"{where} needs the environment variable {found[1]}, which is not set; set it")
        return secret

    return SECRET.sub(one, value)


def placeholders(url: str) -> tuple[str, ...]:
    """Return the names that stand in braces in a URL template.

    Raises:
        ConfigurationError: It is no absolute http(s) URL, or a name is empty.
    """
    names = tuple(PLACEHOLDER.findall(url))
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"url {url!r} does not begin with http:// or https://; give the whole address")
    if any(not name.isidentifier() for name in names):
        raise ConfigurationError(f"url {url!r} has braces around what is no name; write {{customer}}")
    return names


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
