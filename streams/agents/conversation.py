"""Conversations over a `Log`: what of it fits a model's window, and a recap of what does not. A small helper.

A log only grows, and is read by page. A window is its newest entries; what is older lives on in a recap, a field of the
state that says how far it has got. So a turn costs the window and not the conversation, however long that is.

Example:
    >>> class Customer(BaseModel):                                                        # doctest: +SKIP
    ...     messages: Log[Message] = Log()
    ...     recap: Recap = Recap()
    >>> async def summarize(before: str, entries: list[Message]) -> str:
    ...     lines = "; ".join(message.content for message in entries)
    ...     return (await fast.chat(f"Summarize. Until now: {before}. Then: {lines}")).text
    >>> ctx.state.recap = await condense(ctx.state.messages, ctx.state.recap, summarize, keep=20, at=40)
    >>> recent = await window(ctx.state.messages, entries=40, after=ctx.state.recap.upto)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel

from streams.agents.state import PAGE_ENTRIES, Log
from streams.errors import InvalidInput

T = TypeVar("T")


class Recap(BaseModel):
    """What the beginning of a conversation said.

    Attributes:
        text: The summary.
        upto: Entries of the log that it covers.
    """

    text: str = ""
    upto: int = 0


async def pages(log: Log[T], *, start: int = 0, stop: int | None = None, size: int = PAGE_ENTRIES) -> AsyncIterator[T]:
    """Yield the entries from position *start* to before *stop* (its end by default), oldest first, a page at a time.

    Raises:
        InvalidInput: *size* is below 1, or a position is outside the log.
    """
    end = len(log) if stop is None else stop
    if size < 1:
        raise InvalidInput(f"page size {size} is below 1")
    if not 0 <= start <= end <= len(log):
        raise InvalidInput(f"positions {start} to {end} are outside the log of {len(log)} entries")
    while start < end:
        before = min(start + size, end)
        for entry in await log.page(before, size=before - start):
            yield entry
        start = before


async def window(
    log: Log[T],
    *,
    entries: int,
    size: int | None = None,
    size_of: Callable[[T], int] = lambda entry: 1,
    after: int = 0,
) -> list[T]:
    """Return the newest entries that fit, oldest first; only what is returned is read, but for one page.

    Args:
        entries: Most of them.
        size: Most that their sizes may add up to, for example tokens; None for no bound.
        size_of: Size of an entry.
        after: Position from which on they are taken; what is before is in the recap.

    Raises:
        InvalidInput: *entries* is below 1, or *after* is outside the log.
    """
    if entries < 1:
        raise InvalidInput(f"a window of {entries} entries holds nothing")
    if not 0 <= after <= len(log):
        raise InvalidInput(f"position {after} is outside the log of {len(log)} entries")
    kept: list[T] = []
    before, total = len(log), 0
    while before > after and len(kept) < entries:
        page = await log.page(before, size=min(PAGE_ENTRIES, before - after, entries - len(kept)))
        for entry in reversed(page):
            total += size_of(entry)
            if size is not None and total > size:
                return kept[::-1]
            kept.append(entry)
        before -= len(page)
    return kept[::-1]


async def condense(
    log: Log[T],
    recap: Recap,
    summarize: Callable[[str, list[T]], Awaitable[str]],
    *,
    keep: int = 20,
    at: int = 40,
    size: int = PAGE_ENTRIES,
) -> Recap:
    """Return a recap that covers all but the newest *keep* entries, once *at* entries are not covered.

    Args:
        summarize: Makes a summary of the one before and the next entries; in a handler, a model call. It is called for
            each page that is new, so that no call is larger than a page.
        keep: Entries that stay as they are.
        at: Entries beyond the recap from which on it is renewed.
        size: Entries of one call.

    Raises:
        InvalidInput: *keep* is not below *at*, or a bound is out of range.
    """
    if not 0 <= keep < at or size < 1:
        raise InvalidInput(f"keep={keep} must be below at={at}, and size={size} at least 1")
    if len(log) - recap.upto < at:
        return recap
    text, upto, stop = recap.text, recap.upto, len(log) - keep
    while upto < stop:
        before = min(upto + size, stop)
        text = await summarize(text, await log.page(before, size=before - upto))
        upto = before
    return Recap(text=text, upto=upto)
