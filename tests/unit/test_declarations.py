import pytest
from pydantic import BaseModel

import streams
from streams import App, ConfigurationError, Context, MissingFallback
from streams.errors import DuplicateName


class Request(BaseModel):
    customer: str


PUBLIC_NAMES = {
    "Agent", "AgentDeadlock", "AgentState", "App", "Backpressure", "BrokerUnavailable", "Budget", "BudgetExceeded",
    "CallInfo", "ChildFailed", "Client", "ConfigurationError", "Conflict", "Context", "DeadlineExceeded", "Failure",
    "Handle", "HandlerError", "InvalidInput", "InvocationFailed", "InvocationResult", "Log", "LogPage", "Message",
    "MissingFallback", "Model", "ModelRefused", "NonDeterminism", "NotDurable", "Outcome", "PayloadTooLarge", "Recap",
    "RemoteRecords", "RemoteState", "Reply", "ResultTimeout", "Settings", "SettingsError", "SharedRecords",
    "SignalTimeout", "StreamsError", "Throttled", "Tokens", "TooManyWaiting", "Tool", "ToolRefused", "ToolRequest",
    "Unavailable", "UnknownInvocation", "UnusableAnswer", "VersionConflict", "Versioned", "call_info", "condense",
    "load_settings", "pages", "window",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(streams.__all__) == PUBLIC_NAMES
    assert all(hasattr(streams, name) for name in PUBLIC_NAMES)


def test_a_tool_without_a_fallback_is_refused_with_file_and_line():
    app = App("shop")
    with pytest.raises(MissingFallback, match=r"test_declarations\.py:\d+: tool 'price' declares no fallback"):

        @app.tool(timeout=1, effect="read")  # type: ignore[call-overload, untyped-decorator]
        async def price() -> int:
            return 1


def test_a_fallback_of_none_is_a_fallback():
    app = App("shop")

    @app.tool(timeout=1, effect="read", fallback=None)
    async def price() -> int:
        return 1

    assert app.tools["price"].policy.timeout_s == 1


def test_a_model_without_a_fallback_is_refused_with_file_and_line():
    with pytest.raises(MissingFallback, match=r"test_declarations\.py:\d+: model 'fast' declares no fallback"):
        App("shop").model("fast")


def test_a_fallback_of_another_type_is_refused():
    app = App("shop")
    with pytest.raises(ConfigurationError, match="fallback of tool 'price' is not what the tool returns"):

        @app.tool(timeout=1, effect="read", fallback="a lot")
        async def price() -> int:
            return 1


def test_two_tools_of_one_name_are_refused():
    app = App("shop")

    def declare() -> None:
        @app.tool(timeout=1, effect="read", fallback=0)
        async def price() -> int:
            return 1

    declare()
    with pytest.raises(DuplicateName, match="has a tool 'price' already"):
        declare()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0, "effect": "read"}, "timeout 0"),
        ({"timeout": 1, "effect": "write"}, "effect 'write'"),
        ({"timeout": 1, "effect": "read", "concurrency": 0}, "concurrency 0"),
        ({"timeout": 1, "effect": "read", "rate": "fast"}, "rate 'fast'"),
    ],
)
def test_bounds_outside_their_range_are_named(options, message):
    app = App("shop")
    with pytest.raises(ConfigurationError, match=message):
        app.tool(fallback=0, **options)(lambda: 0)


def test_outside_of_an_agent_a_tool_is_the_plain_function():
    import asyncio

    app = App("shop")

    @app.tool(timeout=1, effect="read", fallback=0)
    async def price(item: str) -> int:
        return len(item)

    assert asyncio.run(price("tea")) == 3


def test_an_agent_must_be_async_and_take_context_and_input():
    app = App("shop")
    with pytest.raises(ConfigurationError, match="is not an async function"):
        app.agent(key="customer")(lambda ctx, request: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigurationError, match="takes 1 parameters"):

        @app.agent(key="customer")  # type: ignore[arg-type]
        async def short(ctx: Context[None]) -> None: ...


def test_a_key_that_the_input_does_not_have_is_named():
    app = App("shop")
    with pytest.raises(ConfigurationError, match="key 'client' of agent 'helper' is not a field of Request"):

        @app.agent(key="client")
        async def helper(ctx: Context[None], request: Request) -> None: ...


def test_state_needs_defaults():
    class Broken(BaseModel):
        count: int

    app = App("shop")
    with pytest.raises(ConfigurationError, match=r"state field Broken\.count has no default"):

        @app.agent(key="customer", state=Broken)
        async def helper(ctx: Context[Broken], request: Request) -> None: ...


def test_an_app_name_must_fit_a_topic():
    with pytest.raises(ConfigurationError, match="'pay ments' cannot name topics"):
        App("pay ments")


def test_every_pool_has_a_lane_of_its_own_whose_name_a_topic_can_carry():
    app = App("shop")
    app.model("fast", fallback="sorry")
    app.model("faster", pool="fast", fallback="sorry")
    app.model("big", fallback="sorry")
    assert app.lanes()["llm-requests"] == ("big", "fast")
    with pytest.raises(ConfigurationError, match=r"test_declarations.py:\d+: the pool of model 'large one' .* pool="):
        app.model("large one", fallback="sorry")
    app.model("larger one", pool="larger", fallback="sorry")
