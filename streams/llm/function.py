"""A plain Python function as a model provider: for tests, for models in the same process, and to measure the rest."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable

import orjson

from streams.errors import UnknownName
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.provider_errors import ProviderError, Unavailable
from streams.llm.providers import OnText
from streams.llm.usage import Usage

Function = Callable[[ChatRequest], str | ChatResponse | Awaitable[str | ChatResponse]]
BYTES_PER_TOKEN = 4


def load_function(name: str) -> FunctionProvider:
    """Return the provider that a `module:function` of the settings names.

    Raises:
        UnknownName: There is no such module, or no such function in it.
    """
    module_name, _, variable = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), variable, None)
    except ModuleNotFoundError as error:
        raise UnknownName(f"function {name!r} of a model pool: there is no module {error.name!r}") from None
    if not callable(found):
        raise UnknownName(f"function {name!r} of a model pool: module {module_name!r} has no function {variable!r}")
    return FunctionProvider(found, variable)


class FunctionProvider:
    """Answers with what *function* returns.

    Args:
        function: Gets the request; returns text or a whole response, at once or awaited. A plain function runs on the
            event loop, so it must be quick. What it raises counts as an outage, unless it is a `ProviderError`.
        name: For messages and metrics; the function's own name if None.
    """

    def __init__(self, function: Function, name: str | None = None) -> None:
        self._function = function
        self._name: str = name or str(getattr(function, "__name__", "function"))

    @property
    def name(self) -> str:
        """What it is called in messages and metrics."""
        return self._name

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Call the function; see `Provider.complete`. Usage of a plain text is counted at four bytes a token."""
        try:
            async with asyncio.timeout(timeout_s):
                said = self._function(request)
                answer = await said if inspect.isawaitable(said) else said
        except ProviderError:
            raise
        except TimeoutError:
            raise Unavailable("timeout", f"{self._name} did not answer within {timeout_s:g} s") from None
        except Exception as error:
            raise Unavailable("status", f"{self._name} raised {type(error).__name__}: {error}") from error
        if isinstance(answer, str):
            asked = sum(len(orjson.dumps(message)) for message in request.messages)
            answer = ChatResponse(
                answer, usage=Usage(asked // BYTES_PER_TOKEN, -(-len(answer.encode()) // BYTES_PER_TOKEN))
            )
        if on_text and answer.text:
            on_text(answer.text)
        return answer

    async def close(self) -> None:
        """Nothing is open."""
