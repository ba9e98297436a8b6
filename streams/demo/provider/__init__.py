"""A strict mock of an LLM provider: OpenAI's chat-completions protocol over HTTP, with limits that are really enforced.

Its counters are the truth that tests and benchmarks are measured against, so it shares no code with `streams.llm`.
`python -m streams.demo.provider` runs it as a process, `MockProvider` in a test; `config` says what it can be told.
"""

from streams.demo.provider.answers import Answer, AskedTool, Responder
from streams.demo.provider.config import Limits, MockConfig
from streams.demo.provider.server import MockProvider

__all__ = ["Answer", "AskedTool", "Limits", "MockConfig", "MockProvider", "Responder"]
