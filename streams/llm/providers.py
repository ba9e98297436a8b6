"""The door to model providers: what the dispatcher needs from one, and how one is opened by name.

The official clients are extras; a provider that is not installed is named with its extra when a pool asks for it, not
when this package is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from streams.errors import PrerequisiteMissing, UnknownName
from streams.llm.chat import ChatRequest, ChatResponse

OnText = Callable[[str], None]
"""Gets each piece of an answer's text while it is written."""

PROVIDERS = ("openai", "anthropic")


@runtime_checkable
class Provider(Protocol):
    """Calls models. One instance serves all keys and many calls at once."""

    @property
    def name(self) -> str:
        """What it is called in messages and metrics."""

    async def complete(
        self, request: ChatRequest, key: str, timeout_s: float, on_text: OnText | None = None
    ) -> ChatResponse:
        """Make one call, without any retry.

        Args:
            request: What to ask.
            key: API key to use.
            timeout_s: For the call as a whole, streamed or not.
            on_text: When given, the answer is streamed; the response has the whole all the same.

        Raises:
            ProviderError: one of its four kinds, see `streams.llm.provider_errors`.
        """

    async def close(self) -> None:
        """Close the connections."""


def open_provider(name: str, base_url: str | None = None, *, connections: int = 1000) -> Provider:
    """Return a provider that uses the official client.

    Args:
        name: `openai` (any server that speaks chat completions) or `anthropic`.
        base_url: Where it is; the provider's own address if None.
        connections: Most connections at once.

    Raises:
        UnknownName: there is no provider of that name.
        PrerequisiteMissing: its client is not installed.
    """
    try:
        match name:
            case "openai":
                from streams.llm.openai import OpenAIProvider

                return OpenAIProvider(base_url, connections=connections)
            case "anthropic":
                from streams.llm.anthropic import AnthropicProvider

                return AnthropicProvider(base_url, connections=connections)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in (name, "httpx2"):
            raise
        raise PrerequisiteMissing(
            f"the {name} client is not installed; pip install 'agent-streams[{name}]', or choose another provider"
        ) from None
    raise UnknownName(f"there is no model provider {name!r}; there are {', '.join(PROVIDERS)}")
