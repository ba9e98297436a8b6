import pytest

from streams.demo.domain import AccountStatus, Decision, Dispute, Order, Orders, Receipt, conversation, disputes
from streams.demo.provider.answers import AskedTool, Json
from streams.demo.provider.payments import settle
from streams.llm.messages import Message, ToolRequest

DISPUTE = Dispute(customer="cust-7", order="ord-1", text="charged twice")
GOOD, BAD = Order(id="ord-1", cents=990, refundable=True), Order(id="ord-1", cents=990, refundable=False)
ACTIVE = AccountStatus(status="active", version=3)


def tool(*parameters: str) -> Json:
    properties: Json = {name: {} for name in parameters}
    return {"type": "function", "function": {"name": "refund", "parameters": {"properties": properties}}}


REFUND = tool("customer", "order", "cents")


def turn(account=ACTIVE, order: Order | None = GOOD, after: tuple[Message, ...] = (), tools=(REFUND,)):
    orders = Orders(orders=(order,) if order else ())
    messages = [message.to_wire() for message in (*conversation(DISPUTE, account, orders), *after)]
    said = settle(messages, tools)
    assert said is not None
    return said


def decided(said) -> Decision:
    assert not said.tool_calls
    return Decision.model_validate_json(said.text)


def refunded(content: str) -> tuple[Message, ...]:
    asked = ToolRequest(id="c1", name="refund", arguments="{}")
    return (
        Message(role="assistant", tool_calls=(asked,)),
        Message(role="tool", tool_call_id="c1", content=content),
    )


def test_a_refundable_order_of_an_active_account_is_refunded_first():
    assert turn().tool_calls == (AskedTool("refund", {"customer": "cust-7", "order": "ord-1", "cents": 990}),)


def test_only_arguments_that_the_tool_has_are_given():
    assert turn(tools=(tool("customer", "cents"),)).tool_calls[0].arguments == {"customer": "cust-7", "cents": 990}


def test_a_receipt_ends_it():
    decision = decided(turn(after=refunded(Receipt(state="refunded").model_dump_json())))
    assert (decision.action, decision.status, decision.status_version) == ("refund", "active", 3)


@pytest.mark.parametrize("content", [Receipt(state="unconfirmed").model_dump_json(), "error: TimeoutError: no answer"])
def test_a_refund_that_may_not_have_happened_is_escalated_and_not_tried_again(content):
    assert decided(turn(after=refunded(content))).action == "escalate"


@pytest.mark.parametrize(
    ("status", "order", "action"),
    [
        ("active", BAD, "reject"),
        ("active", None, "escalate"),
        ("frozen", GOOD, "escalate"),
        ("closed", GOOD, "reject"),
        ("unknown", GOOD, "escalate"),
    ],
)
def test_everything_else_is_decided_at_once(status, order, action):
    decision = decided(turn(AccountStatus(status=status, version=4), order))
    assert (decision.action, decision.status, decision.status_version) == (action, status, 4)


def test_the_case_is_found_among_words_and_over_several_messages():
    messages = [
        {"role": "user", "content": f"Dispute: {DISPUTE.model_dump_json()} - please help"},
        {"role": "user", "content": f"status {ACTIVE.model_dump_json()}, {Orders(orders=(BAD,)).model_dump_json()}"},
    ]
    said = settle(messages, [REFUND])
    assert said
    assert decided(said).action == "reject"


def test_anything_else_is_left_to_the_echo():
    assert settle([{"role": "user", "content": 'hello {"customer": 1} {'}], []) is None


def test_disputes_repeat_with_their_seed_and_each_is_about_its_own_order():
    some = list(disputes(500, seed=1))
    assert some == list(disputes(500, seed=1))
    assert some != list(disputes(500, seed=2))
    assert len({d.order for d in some}) == 500
    assert 150 < len({d.customer for d in some}) <= 200
