"""The demo without the product: a simple agent against bank, mock provider and oracle. What these say must be right."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from streams.demo.accounts import World
from streams.demo.bank import Bank
from streams.demo.bank_client import BankClient
from streams.demo.domain import AccountStatus, Decision, Dispute, conversation, disputes
from streams.demo.oracle import Settled, doubled, judge
from streams.demo.provider import MockProvider
from streams.llm.chat import ChatRequest
from streams.llm.messages import Message
from streams.llm.openai import OpenAIProvider

PARAMETERS = {"type": "object", "properties": {"customer": {}, "order": {}, "cents": {}}}
REFUND = {"type": "function", "function": {"name": "refund", "parameters": PARAMETERS}}

Remember = Callable[[str, AccountStatus], AccountStatus]


async def settle(dispute: Dispute, bank: BankClient, model: OpenAIProvider, remember: Remember) -> Settled:
    submitted_at = time.time()
    account = remember(dispute.customer, await bank.account_status(dispute.customer))
    orders = await bank.orders(dispute.customer, dispute.order)
    talk = conversation(dispute, account, orders)
    while True:
        wire = [message.to_wire() for message in talk]
        said = await model.complete(ChatRequest("fast", wire, [REFUND], Decision.model_json_schema()), "k", 5)
        if not said.tool_calls:
            break
        order = orders.find(dispute.order)
        assert order
        receipt = await bank.refund(dispute.customer, order.id, order.cents)
        told = Message(role="tool", tool_call_id=said.tool_calls[0].id, content=receipt.model_dump_json())
        talk += [Message(role="assistant", tool_calls=said.tool_calls), told]
    decision = Decision.model_validate_json(said.text)
    return Settled(f"dispute/{dispute.order}", dispute, decision, False, submitted_at, time.time())


async def run(remember: Remember) -> tuple[Counter[str], Counter[str]]:
    world = World(seed=5, started_at=time.time(), change_every_s=0.5)
    async with MockProvider(mounts={"bank": Bank(world)}) as mock, BankClient(f"{mock.url}/bank") as bank:
        model = OpenAIProvider(mock.base_url)
        work = asyncio.Semaphore(16)

        async def one(dispute: Dispute) -> Settled:
            async with work:
                return await settle(dispute, bank, model, remember)

        settled = await asyncio.gather(*(one(dispute) for dispute in disputes(400)))
        ledger = await bank.ledger()
        await model.close()
    assert doubled(ledger) == 0
    actions = Counter(one.decision.action for one in settled)
    return Counter(str(action) for action in actions.elements()), Counter(w.fault for w in judge(ledger, settled))


async def test_an_agent_that_looks_before_it_answers_is_right():
    actions, wrong = await run(lambda customer, status: status)
    assert wrong == {}
    assert all(actions[action] > 20 for action in ("refund", "reject", "escalate"))


async def test_an_agent_that_remembers_the_status_is_caught():
    seen: dict[str, AccountStatus] = {}
    _, wrong = await run(seen.setdefault)
    assert wrong["stale"] > 20
    assert set(wrong) == {"stale"}
