import asyncio
import sys
from pathlib import Path

import pytest

from streams.errors import PrerequisiteMissing, UnknownName
from streams.llm.chat import ChatRequest, ChatResponse
from streams.llm.function import FunctionProvider, load_function
from streams.llm.provider_errors import Refused, Throttled, Unauthorized, Unavailable, classify
from streams.llm.providers import Provider, open_provider
from streams.llm.usage import Usage

ASK = ChatRequest("fast", [{"role": "user", "content": "hello"}])


def test_an_unknown_provider_is_named_with_those_there_are():
    with pytest.raises(UnknownName, match="no model provider 'opanai'; there are openai, anthropic"):
        open_provider("opanai")


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_client_that_is_not_installed_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"streams.llm.{name}", raising=False)
    with pytest.raises(PrerequisiteMissing, match=rf"pip install 'agent-streams\[{name}\]'"):
        open_provider(name)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, Refused),
        (404, None, Refused),
        (413, None, Refused),
        (422, None, Refused),
        (401, None, Unauthorized),
        (403, None, Unauthorized),
        (429, "insufficient_quota", Unauthorized),
        (429, "rate_limit_exceeded", Throttled),
        (408, None, Unavailable),
        (409, None, Unavailable),
        (500, None, Unavailable),
        (529, None, Unavailable),
    ],
)
def test_errors_are_told_apart_by_what_the_dispatcher_does_about_them(status, code, kind):
    error = classify(status, "no", {"retry-after": "3"}, key="k", wall_s=0, code=code)
    assert type(error) is kind
    assert error.headers.retry_after_s == 3


def test_a_key_that_the_provider_quotes_is_taken_out():
    error = classify(401, "Incorrect API key provided: sk-secret.", {}, key="sk-secret", wall_s=0)
    assert str(error) == "Incorrect API key provided: ***."


def test_a_payload_becomes_a_request():
    payload = b'{"messages":[{"role":"user","content":"hi"}],"max_output_tokens":9,"schema":{"title":"A [b]"}}'
    request = ChatRequest.from_payload(payload, model="fast", request_id="r1")
    assert (request.max_output_tokens, request.schema_name, request.request_id) == (9, "A_b_", "r1")
    with pytest.raises(ValueError, match="a list of messages"):
        ChatRequest.from_payload(b"[]", model="fast")


async def test_a_function_answers_text_or_a_response_now_or_later():
    async def later(request: ChatRequest) -> ChatResponse:
        await asyncio.sleep(0)
        return ChatResponse("later", usage=Usage(1, 2))

    pieces: list[str] = []
    plain: Provider = FunctionProvider(lambda request: f"to {request.model}", name="plain")
    answer = await plain.complete(ASK, "", 1, pieces.append)
    assert (answer.text, answer.usage, pieces) == ("to fast", Usage(8, 2), ["to fast"])
    assert (await FunctionProvider(later).complete(ASK, "", 1)).usage == Usage(1, 2)
    assert FunctionProvider(later).name == "later"


async def test_a_function_that_fails_or_hangs_is_unavailable():
    def broken(request: ChatRequest) -> str:
        raise KeyError("x")

    async def hangs(request: ChatRequest) -> str:
        await asyncio.sleep(60)
        return ""

    def refuses(request: ChatRequest) -> str:
        raise Refused(400, "no")

    with pytest.raises(Unavailable, match="broken raised KeyError"):
        await FunctionProvider(broken).complete(ASK, "", 1)
    with pytest.raises(Unavailable, match=r"hangs did not answer within 0\.01 s") as late:
        await FunctionProvider(hangs).complete(ASK, "", 0.01)
    assert late.value.kind == "timeout"
    with pytest.raises(Refused, match="no"):
        await FunctionProvider(refuses).complete(ASK, "", 1)


async def test_a_function_can_be_named_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "canned_answers.py").write_text("def polite(request):\n    return 'thank you'\nrude = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    provider = load_function("canned_answers:polite")
    assert (provider.name, (await provider.complete(ASK, "", 1)).text) == ("polite", "thank you")
    with pytest.raises(UnknownName, match="module 'canned_answers' has no function 'rude'"):
        load_function("canned_answers:rude")
    with pytest.raises(UnknownName, match="there is no module 'no_such_answers'"):
        load_function("no_such_answers:polite")
