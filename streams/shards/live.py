"""One invocation that has not ended: its journal in memory, and its way to and from journal records."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from streams.agents.run import Run
from streams.errors import CodecError
from streams.records import decode_as, encode, encoder_of, holds
from streams.records.ids import input_digest
from streams.records.invocations import Invocation
from streams.records.journal import Completion, JournalChunk, JournalEntry, KeptStep
from streams.records.signals import Signal

QUEUED, RUNNING, PARKED = "queued", "running", "parked"
SEPARATOR = "\x00"
CURSOR_KEY = b"\x00cursor"
INPUT_CHUNK, SNAPSHOT_CHUNK, HELD_CHUNK = -1, -2, -1_000_000
"""Numbers of chunks that are not completions; what needs several counts down from there."""

LARGE_INPUT_BYTES = 4_096

_encode_entry = encoder_of(JournalEntry)


@dataclass(slots=True, eq=False)
class Live:
    """A live invocation.

    Attributes:
        encoded: The invocation's record, as it is journaled.
        id: The invocation ID; `agent_id` is that of the agent instance. Made once: they are asked for all the time.
        closed: Completions in closed chunks; `open` are those of the journal entry, which is rewritten.
        asked: Rolling hash of all requests until now.
        wake_at_s: When the engine must look at it without an event; 0 for never.
        deadlines: Heap of (deadline, step) of steps that have one.
        seen: IDs of signals that were delivered.
        aliases: Index in `kept` to the step of this incarnation that repeats it.
        cancelled: A cancel was delivered; the end counts as cancelled.
        counted_bytes: What the shard counts for it towards its bound.
        notices: What workers have said about steps that they cannot answer yet; in memory only.
    """

    invocation: Invocation
    encoded: bytes
    accepted: int
    phase: str = QUEUED
    incarnation: int = 0
    version: str = ""
    started_at_ms: int = 0
    closed: list[bytes] = field(default_factory=list)
    chunks: int = 0
    open: list[bytes] = field(default_factory=list)
    open_bytes: int = 0
    asked: int = 0
    wake_at_s: float = 0.0
    reason: str = ""
    kept: list[KeptStep] = field(default_factory=list)
    signals: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    snapshot: tuple[bytes, ...] | None = None
    working: bool = False
    patches: frozenset[str] = frozenset()
    run: Run | None = None
    deadlines: list[tuple[float, int]] = field(default_factory=list)
    aliases: dict[int, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    cancelled: bool = False
    children: int = 0
    counted_bytes: int = 0
    notices: dict[int, str] = field(default_factory=dict)
    input_written: bool = False
    snapshot_written: bool = False
    snapshot_chunks: int = 0
    held_first: int = 0
    held_written: tuple[int, int] = (0, 0)
    id: str = field(init=False)
    agent_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id, self.agent_id = self.invocation.id, self.invocation.agent_id

    @property
    def size_bytes(self) -> int:
        """Size of its journal, roughly."""
        return len(self.encoded) + self.open_bytes + self.chunks * 8_192

    def completions(self) -> Iterator[Completion]:
        """Yield what was applied to the handler, in order."""
        for data in chain(self.closed, self.open):
            if not holds(KeptStep, data):
                yield decode_as(Completion, data)

    def add(self, completion: Completion) -> None:
        """Note a completion that is being applied."""
        data = encode(completion)
        self.open.append(data)
        self.open_bytes += len(data)

    def keep(self, step: KeptStep) -> None:
        """Note an at-most-once call that is being made; it stands among the completions, so that many cost O(N)."""
        self.kept.append(step)
        self._journal(step)

    def _journal(self, step: KeptStep) -> None:
        data = encode(step)
        self.open.append(data)
        self.open_bytes += len(data)

    def learn(self, index: int, outcome: bytes) -> None:
        """Note what came of a kept call that nobody waits for: when it is asked for again, nobody answers again."""
        self.kept[index] = known = replace(self.kept[index], outcome=outcome)
        if known.incarnation == self.incarnation:
            self._journal(known)

    def take_held(self) -> list[bytes]:
        """Return what has come while it was parked, and forget it; numbers go on, so that none is used twice."""
        held, self.held = self.held, []
        self.held_first += len(held)
        return held

    def forget_run(self) -> None:
        """Start anew as the next incarnation, but for what is `kept` and what was told."""
        self.incarnation += 1
        self.closed, self.open, self.open_bytes, self.chunks = [], [], 0, 0
        self.held, self.held_first, self.held_written = [], 0, (0, 0)
        self.snapshot, self.snapshot_written, self.snapshot_chunks = None, False, 0
        self.asked, self.reason, self.patches = 0, "", frozenset()
        self.cancelled, self.children = False, 0
        self.aliases.clear()
        self.deadlines.clear()
        self.notices.clear()

    def digest(self) -> bytes:
        """Return what tells this input from another one under the same ID."""
        return input_digest(self.invocation.input)

    def entry(self) -> bytes:
        """Return the journal entry as of now, encoded."""
        return _encode_entry(
            invocation=b"" if len(self.encoded) > LARGE_INPUT_BYTES else self.encoded,
            incarnation=self.incarnation,
            phase=self.phase,
            version=self.version,
            accepted=self.accepted,
            started_at_ms=self.started_at_ms,
            chunks=self.chunks,
            completions=tuple(self.open),
            asked=self.asked,
            wake_at_s=self.wake_at_s,
            reason=self.reason,
            kept=tuple(encode(k) for k in self.kept if k.incarnation < self.incarnation) if self.kept else (),
            signals=tuple(self.signals),
            snapshot=None,
            working=self.working,
            patches=tuple(sorted(self.patches)) if self.patches else (),
        )

    def writes(self, chunk_bytes: int) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield key and value of the journal records that bring the log up to date; closes a full chunk.

        No record is much larger than *chunk_bytes* or one payload, however much has come in one transaction.
        """
        if len(self.encoded) > LARGE_INPUT_BYTES and not self.input_written:
            self.input_written = True
            yield self._chunk(INPUT_CHUNK, (self.encoded,))
        if self.snapshot is not None and not self.snapshot_written:
            self.snapshot_written = True
            for piece in pieces(self.snapshot, chunk_bytes):
                yield self._chunk(SNAPSHOT_CHUNK - self.snapshot_chunks, piece)
                self.snapshot_chunks += 1
        if self.open_bytes > chunk_bytes:
            for piece in pieces(self.open, chunk_bytes):
                yield self._chunk(self.chunks, piece)
                self.chunks += 1
            self.closed += self.open
            self.open, self.open_bytes = [], 0
        if self.held or self.held_written[1]:
            yield from self._held_writes()
        yield self.id.encode(), self.entry()

    def _held_writes(self) -> Iterator[tuple[bytes, bytes | None]]:
        for number in range(self.held_written[0], min(self.held_first, self.held_written[1])):
            yield self._key(HELD_CHUNK - number), None
        last = self.held_first + len(self.held)
        for number in range(max(self.held_first, self.held_written[1]), last):
            yield self._chunk(HELD_CHUNK - number, (self.held[number - self.held_first],))
        self.held_written = (self.held_first, last)

    def chunk_keys(self) -> Iterator[bytes]:
        """Yield the keys that its end must tombstone."""
        if self.input_written:
            yield self._key(INPUT_CHUNK)
        for number in range(self.snapshot_chunks):
            yield self._key(SNAPSHOT_CHUNK - number)
        for number in range(*self.held_written):
            yield self._key(HELD_CHUNK - number)
        for number in range(self.chunks):
            yield self._key(number)

    def _chunk(self, number: int, completions: tuple[bytes, ...]) -> tuple[bytes, bytes]:
        return self._key(number), encode(JournalChunk(self.id, self.incarnation, number, completions))

    def _key(self, number: int) -> bytes:
        incarnation = 0 if number == INPUT_CHUNK else self.incarnation
        return chunk_key(self.id, incarnation, number)


def chunk_key(invocation: str, incarnation: int, number: int) -> bytes:
    """Return the journal key of a chunk."""
    return f"{invocation}{SEPARATOR}{incarnation}{SEPARATOR}{number}".encode()


def early_key(invocation: str) -> bytes:
    """Return the journal key under which signals wait for their invocation."""
    return f"{invocation}{SEPARATOR}early".encode()


def restore_live(entry: JournalEntry, chunks: dict[tuple[int, int], JournalChunk]) -> Live:
    """Return the live invocation that an entry and its chunks (by incarnation and number) describe.

    Raises:
        CodecError: A chunk is missing: the journal is damaged.
    """
    try:
        return _restore(entry, chunks)
    except KeyError as missing:
        identity = next(iter(chunks.values())).invocation if chunks else "an invocation with a large input"
        raise CodecError(
            f"chunk {missing} of the journal of {identity} is missing: the journal is damaged; restore the topic"
        ) from None


def _restore(entry: JournalEntry, chunks: dict[tuple[int, int], JournalChunk]) -> Live:
    large = not entry.invocation
    encoded = chunks[0, INPUT_CHUNK].completions[0] if large else entry.invocation
    live = Live(decode_as(Invocation, encoded), encoded, entry.accepted)
    for name in ("phase", "incarnation", "version", "started_at_ms", "chunks", "asked", "wake_at_s", "reason"):
        setattr(live, name, getattr(entry, name))
    for number in range(entry.chunks):
        live.closed += chunks[entry.incarnation, number].completions
    live.open = list(entry.completions)
    live.open_bytes = sum(map(len, live.open))
    kept = [decode_as(KeptStep, data) for data in entry.kept]
    kept += [decode_as(KeptStep, data) for data in chain(live.closed, live.open) if holds(KeptStep, data)]
    # What is known last of each counts: its outcome may have come after it was noted.
    live.kept = list({(step.incarnation, step.step): step for step in kept}.values())
    live.signals = list(entry.signals)
    live.seen = {decode_as(Signal, data).signal_id for data in live.signals}
    held = _numbered(chunks, entry.incarnation, HELD_CHUNK, -sys.maxsize)
    live.held = [data for number in held for data in chunks[entry.incarnation, number].completions]
    if held:
        live.held_first = HELD_CHUNK - held[0]
        live.held_written = (live.held_first, live.held_first + len(held))
    live.working = entry.working
    live.patches = frozenset(entry.patches)
    live.input_written = large
    for number in _numbered(chunks, entry.incarnation, SNAPSHOT_CHUNK, HELD_CHUNK):
        live.snapshot = (*(live.snapshot or ()), *chunks[entry.incarnation, number].completions)
        live.snapshot_written = True
        live.snapshot_chunks += 1
    return live


def _numbered(chunks: dict[tuple[int, int], JournalChunk], incarnation: int, first: int, beyond: int) -> list[int]:
    """Return the numbers of the chunks of one kind, in their order."""
    numbers = [number for of, number in chunks if of == incarnation and beyond < number <= first]
    return sorted(numbers, reverse=True)


def pieces(records: Iterable[bytes], most_bytes: int) -> Iterator[tuple[bytes, ...]]:
    """Yield *records* in their order, in pieces of at most about *most_bytes*; a larger one is a piece of its own."""
    piece: list[bytes] = []
    size = 0
    for record in records:
        if piece and size + len(record) > most_bytes:
            yield tuple(piece)
            piece, size = [], 0
        piece.append(record)
        size += len(record)
    if piece:
        yield tuple(piece)
