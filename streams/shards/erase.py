"""Erasing what a shard keeps of an agent instance or shared record, on an operator's order.

Its records become deletes, which the sink carries to the store; what finished invocations returned is taken out of
their markers, which stay for deduplication. Older values leave the log with compaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streams.errors import InvalidInput
from streams.records import decode_as, encode
from streams.records.ids import agent_of
from streams.records.invocations import Result
from streams.shards.live import early_key

if TYPE_CHECKING:
    from streams.shards.engine import Engine


def erase(engine: Engine, owner: str, by: str) -> str:
    """Erase *owner*, whose state is at hand; return what was erased, in words.

    Raises:
        InvalidInput: An invocation of it is live.
    """
    live = [live.id for live in engine.live.values() if live.agent_id == owner]
    if live:
        raise InvalidInput(f"{len(live)} invocations of {owner} are live ({live[0]}); let them end, or cancel them")
    records = 0
    for delta in list(engine.state.of(owner).all()):
        if not delta.deleted:
            engine.writes.write(owner, delta.record, None, writer=by)
            records += 1
    results = 0
    for identity, marker in list(engine.markers.of(owner)):
        result = replace(decode_as(Result, marker.result), value=None, error_message=f"erased by {by}")
        kept = encode(replace(marker, result=encode(result)))
        engine.markers.replace(identity, kept)
        engine.outbox.journal(identity.encode(), kept)
        results += 1
    for identity in [identity for identity in engine.early if agent_of(identity) == owner]:
        del engine.early[identity]
        engine.outbox.journal(early_key(identity), None)
    return f"{records} records deleted, {results} results emptied"
