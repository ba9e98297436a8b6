# ruff: noqa: E501
"""The topic catalogue: the only place that knows names, keys, cleanup, retention, and who writes and reads what.

A `Catalogue` turns the table below into the topics of one namespace. Applying and verifying it on a broker is
`streams.broker.topics`' work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from streams.errors import ConfigurationError

Role = Literal["clients", "shards", "tools", "llm", "memory", "control", "operators"]
Retention = Literal["work", "history", "short", "long", "compact", "compact-long", "compact-eager", "compact-journal"]
Spread = Literal["agents", "fleet", "single"]

SHORT_MS = 3_600_000
LONG_MS = 90 * 86_400_000
JOURNAL_TOMBSTONES_MS = 120_000
CONTROL_PARTITIONS = 4
PAYLOAD_OVERHEAD_BYTES = 131_072
DEAD_LETTER_EXTRA_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class TopicKind:
    """One row of the catalogue.

    Attributes:
        key: What the record key is, in words.
        retention: `work` has no time limit (its reader deletes what it no longer needs); `history` keeps the
            configured history; `short` an hour; `long` 90 days; `compact` the latest value of each key;
            `compact-long` likewise, for 90 days after it was written; `compact-eager` likewise with small segments,
            because an active segment is never compacted and a restore reads all of it; `compact-journal` likewise, and
            tombstones stay for two minutes only.
        spread: `agents`: as many partitions as the namespace has shards; `fleet`: a few; `single`: one.
        lanes: Further topics `<name>.<lane>` may be made, so that one backlog does not stand in another's way.
    """

    name: str
    key: str
    retention: Retention
    written_by: tuple[Role, ...]
    read_by: tuple[Role, ...]
    spread: Spread = "agents"
    lanes: bool = False
    size: Literal["payload", "journal", "dead-letter"] = "payload"


KINDS: Mapping[str, TopicKind] = {
    kind.name: kind
    for kind in (
        TopicKind("invocations", "agent ID", "work", ("clients", "shards"), ("shards", "control"), lanes=True),
        TopicKind("signals", "agent ID or record key", "work", ("clients", "operators"), ("shards",)),
        TopicKind("inbox", "agent ID or record key", "work", ("shards",), ("shards",)),
        TopicKind("tool-calls", "agent ID", "work", ("shards", "tools"), ("tools", "control"), lanes=True),
        TopicKind("tool-overflow", "agent ID", "work", ("tools",), ("tools", "control")),
        TopicKind("tool-claims", "step", "compact", ("tools",), ("tools",)),
        TopicKind("tool-results", "agent ID", "work", ("tools",), ("shards", "tools")),
        TopicKind("llm-requests", "agent ID", "work", ("shards",), ("llm", "control"), lanes=True),
        TopicKind("llm-claims", "step", "compact", ("llm",), ("llm",)),
        TopicKind("llm-results", "agent ID", "work", ("llm",), ("shards", "llm")),
        TopicKind("tokens", "agent ID", "short", ("llm",), ("clients",)),
        TopicKind("answers", "client", "short", ("shards",), ("clients", "operators"), spread="fleet"),
        TopicKind("results", "agent ID", "history", ("shards",), ("clients", "memory", "control"), size="journal"),
        TopicKind("state-deltas", "agent ID + record", "compact-eager", ("shards",), ("shards", "memory", "clients", "control")),
        TopicKind("journal", "invocation, chunk or cursor", "compact-journal", ("shards",), ("shards",), size="journal"),
        TopicKind("owners", "none", "short", (), ("shards", "tools", "llm", "memory")),
        TopicKind("breakers", "dependency", "compact", ("control",), ("shards", "tools", "llm", "memory", "control", "clients"), "fleet"),
        TopicKind("outcomes", "dependency", "short", ("tools", "llm", "memory", "shards", "operators"), ("control",), "fleet"),
        TopicKind("backpressure", "lane", "compact", ("control",), ("clients", "control"), "single"),
        TopicKind("limits", "pool or tenant", "compact", ("operators",), ("llm",), "single"),
        TopicKind("usage", "window, shard, tenant and model", "compact-long", ("llm",), ("llm", "clients", "operators"), "single"),
        TopicKind("pools", "pool and reporter", "short", ("llm",), ("clients", "operators"), "single"),
        TopicKind("allotments", "pool", "short", ("llm",), ("llm",), "single"),
        TopicKind("dead-letters", "original key", "long", ("clients", "shards", "tools", "llm", "memory"), ("operators",), size="dead-letter"),
    )
}  # fmt: skip

SHARD_INPUTS: tuple[str, ...] = ("invocations", "signals", "inbox", "tool-results", "llm-results")
"""Kinds that a shard reads, in the order of the cursor."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as the catalogue wants it: name, partitions, and the settings that `check` compares."""

    name: str
    kind: TopicKind
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The topics of one namespace.

    Attributes:
        partitions: Shards of the namespace; chosen for good when it is created.
        history_s: Seconds that results (and consumed work, for replay) are kept.
        max_payload_bytes: Largest payload that a record may carry.
        lanes: Extra lanes, kind name to lane names.
    """

    namespace: str
    partitions: int = 4
    history_s: float = 7 * 86_400.0
    max_payload_bytes: int = 1_000_000
    lanes: Mapping[str, Collection[str]] = field(default_factory=dict)

    def name(self, kind: str, lane: str = "") -> str:
        """Return the full name of a topic.

        Raises:
            KeyError: There is no such kind.
        """
        base = f"{self.namespace}.{KINDS[kind].name}"
        return f"{base}.{lane}" if lane else base

    @property
    def flush_group(self) -> str:
        """Group without members whose committed offsets on `state-deltas` are the flush watermarks."""
        return f"{self.namespace}-memory-sink"

    def topics(self) -> Iterator[TopicPlan]:
        """Yield every topic of the namespace, lanes included.

        Raises:
            ConfigurationError: A lane of a kind that has none.
        """
        for kind in KINDS.values():
            yield self._plan(kind, "")
        for name, lanes in self.lanes.items():
            if name not in KINDS or not KINDS[name].lanes:
                allowed = ", ".join(k.name for k in KINDS.values() if k.lanes)
                raise ConfigurationError(f"{name!r} has no lanes; topics with lanes are {allowed}")
            for lane in lanes:
                yield self._plan(KINDS[name], lane)

    def max_message_bytes(self, kind: TopicKind) -> int:
        """Return the topic's `max.message.bytes`: payload, envelope, and for some topics more than one payload."""
        plain = self.max_payload_bytes + PAYLOAD_OVERHEAD_BYTES
        journal = 2 * self.max_payload_bytes + 2 * PAYLOAD_OVERHEAD_BYTES
        return {"payload": plain, "journal": journal, "dead-letter": journal + DEAD_LETTER_EXTRA_BYTES}[kind.size]

    def tombstones_s(self, name: str) -> float:
        """Return for how many seconds an eagerly compacted topic keeps tombstones.

        Who reads it from its beginning has to be at its end by then: compaction may take away a tombstone that would
        have deleted what was read before.
        """
        return int(self._config(KINDS[name])["delete.retention.ms"]) / 1000

    def _plan(self, kind: TopicKind, lane: str) -> TopicPlan:
        counts = {"agents": self.partitions, "fleet": min(self.partitions, CONTROL_PARTITIONS), "single": 1}
        return TopicPlan(self.name(kind.name, lane), kind, counts[kind.spread], self._config(kind))

    def _config(self, kind: TopicKind) -> dict[str, str]:
        config = {"max.message.bytes": str(self.max_message_bytes(kind))}
        match kind.retention:
            case "compact":
                config |= {"cleanup.policy": "compact"}
            case "compact-long":
                config |= {"cleanup.policy": "compact,delete", "retention.ms": str(LONG_MS)}
            case "compact-eager" | "compact-journal":
                # A restore reads tombstones too; a day of them, Kafka's default, would be most of what it reads. Each
                # invocation leaves one in the journal, so that even an hour of them was half of it under full load.
                tombstones_ms = SHORT_MS if kind.retention == "compact-eager" else JOURNAL_TOMBSTONES_MS
                config |= {
                    "cleanup.policy": "compact",
                    "segment.bytes": str(16 * 1024 * 1024),
                    "min.cleanable.dirty.ratio": "0.1",
                    "max.compaction.lag.ms": "60000",
                    "delete.retention.ms": str(tombstones_ms),
                }
            case "work":
                config |= {"cleanup.policy": "delete", "retention.ms": "-1"}
            case "history":
                config |= {"cleanup.policy": "delete", "retention.ms": str(int(self.history_s * 1000))}
            case "short":
                config |= {"cleanup.policy": "delete", "retention.ms": str(SHORT_MS)}
            case "long":
                config |= {"cleanup.policy": "delete", "retention.ms": str(LONG_MS)}
        return config
