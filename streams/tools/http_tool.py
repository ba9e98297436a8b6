"""Declaring a tool as an HTTP operation: by a URL template, or by an operation of an OpenAPI document."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from streams.agents.signature import Arguments, CallArguments
from streams.errors import ConfigurationError
from streams.tools.http_operation import METHODS, WITH_BODY, HttpOperation, Where, perform, placeholders
from streams.tools.openapi import find_operation, read_document
from streams.tools.schema_arguments import SchemaArguments

NAME = re.compile(r"[A-Za-z_]\w*")


class HttpTool:
    """The function behind an HTTP tool, with connections of its own: a slow service holds up nobody else's.

    Args:
        text: Its value is the response's text, not what its JSON says.
        connections: Most connections at a time in a process.
    """

    def __init__(
        self,
        operation: HttpOperation,
        arguments: CallArguments,
        description: str,
        *,
        text: bool,
        timeout_s: float,
        connections: int,
    ) -> None:
        self.operation = operation
        self.arguments = arguments
        self.description = description
        self._text = text
        self._timeout_s = timeout_s
        self._limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def function(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return the plain function that a worker calls."""

        async def call(**arguments: Any) -> Any:
            client = self._connected()
            return await perform(client, self.operation.request(client, arguments), text=self._text)

        call.__name__ = call.__qualname__ = name
        call.__doc__ = self.description
        return call

    async def aclose(self) -> None:
        """Close its connections; a later call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connected(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = httpx2.AsyncClient(timeout=self._timeout_s, limits=self._limits, follow_redirects=False)
            self._loop = loop
        return self._client


def by_template(
    name: str, url: str, method: str, parameters: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[HttpOperation, CallArguments]:
    """Return operation and arguments of a URL template.

    Args:
        parameters: Name to type, or to (type, default); those of the URL that it does not name are texts. What is not
            in the URL goes to the query, for POST, PUT and PATCH into a JSON body.

    Raises:
        ConfigurationError: A method that is none, a URL that is not absolute, a parameter that is no name.
    """
    method = method.upper()
    if method not in METHODS:
        raise ConfigurationError(f"method {method!r} of tool {name!r} is not one of {', '.join(METHODS)}")
    in_path = placeholders(url)
    fields: dict[str, Any] = dict.fromkeys(in_path, (str, ...))
    for each, given in parameters.items():
        if not NAME.fullmatch(each):
            raise ConfigurationError(f"parameter {each!r} of tool {name!r} is no name; use letters, digits and '_'")
        if each in in_path and isinstance(given, tuple):
            raise ConfigurationError(f"parameter {each!r} of tool {name!r} is in its URL and can have no default")
        fields[each] = given if isinstance(given, tuple) else (given, ...)
    elsewhere: Where = "body" if method in WITH_BODY else "query"
    places: dict[str, Where] = {each: "path" if each in in_path else elsewhere for each in fields}
    return HttpOperation(method, url, places, dict(headers)), Arguments.of_fields(name, fields)


def by_document(
    name: str,
    document: Mapping[str, Any] | str | Path,
    operation: str,
    base_url: str | None,
    headers: Mapping[str, str],
) -> tuple[HttpOperation, CallArguments, str]:
    """Return operation, arguments and description of an OpenAPI operation.

    Raises:
        ConfigurationError: The document cannot be read, has no such operation, or it takes what cannot be sent.
    """
    found = find_operation(read_document(document), operation, base_url)
    http = HttpOperation(found.method, found.url, found.places, dict(headers))
    return http, SchemaArguments(name, found.arguments), found.description


def idempotent(operation: HttpOperation, header: str) -> HttpOperation:
    """Return the operation with the step's idempotency key in a header."""
    return replace(operation, idempotency_header=header)
