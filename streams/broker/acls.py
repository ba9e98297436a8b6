"""The grants that each role needs on a cluster that authorizes, as a list and as `kafka-acls.sh` command lines.

Topics follow from the catalogue's columns "written by" and "read by"; groups and transactional IDs from what each role
joins and fences with. One principal for each role, so that a tool worker cannot write results or read journals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from streams.records.topics import SHARD_INPUTS, Catalogue, Role

Resource = Literal["topic", "group", "transactional-id"]

_GROUPS: dict[Role, tuple[str, ...]] = {
    "shards": ("shards", "shards-owners"),
    "tools": ("tools", "tools-owners"),
    "llm": ("llm", "llm-owners", "llm-usage"),
    "memory": ("memory", "memory-sink"),
    "control": ("control",),
}
_DELETES: dict[Role, tuple[str, ...]] = {
    "shards": SHARD_INPUTS,
    "tools": ("tool-calls", "tool-overflow"),
    "llm": ("llm-requests",),
}
"""Kinds of topics of which a role deletes what it has consumed."""

_TRANSACTIONS: dict[Role, str] = {"shards": "shard", "tools": "claims", "llm": "llm", "control": "control"}
"""Rings of producers are named `<namespace>-<word>-<partition>-<number>`."""

_MEANS: dict[str, str] = {
    "clients": "submit invocations, wait for results, send signals, ask shards: Client, streams run --role gateway",
    "shards": "own agents: streams run --role shards",
    "tools": "run tools: streams run --role tools",
    "llm": "call models: streams run --role llm",
    "memory": "write state back to Postgres: streams run --role memory",
    "control": "decide breakers and backpressure: streams run --role control",
    "operators": "create and check topics, give orders, replay dead letters",
}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a principal may do with one resource.

    Attributes:
        prefixed: *name* is the beginning of the names that are meant, not one name.
        operations: As Kafka spells them: `Read`, `Write`, `Describe`, ...
    """

    role: Role
    principal: str
    resource: Resource
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False

    def command(self, bootstrap_servers: str = "HOST:PORT") -> str:
        """Return the line that gives it, for a shell where Kafka's tools are at hand."""
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        return (
            f"kafka-acls.sh --bootstrap-server {bootstrap_servers} --command-config admin.properties --add "
            f"--allow-principal {self.principal} {operations} --{self.resource} {self.name}{pattern}"
        )


def acls(catalogue: Catalogue) -> list[Grant]:
    """Return the grants of every role, in the order of roles.

    Principals are `User:<namespace>-<role>`. Reading, writing and deleting imply `Describe`. Writing without
    transactions needs no grant on the cluster from Kafka 3.0 on (KIP-679); an older one wants `IdempotentWrite` there.
    """
    return [grant for role in get_args(Role) for grant in _grants(catalogue, role)]


def render(grants: list[Grant], bootstrap_servers: str) -> str:
    """Return the grants as a shell script, one paragraph for each role."""
    lines: list[str] = []
    for role in get_args(Role):
        of_role = [grant.command(bootstrap_servers) for grant in grants if grant.role == role]
        if of_role:
            lines += [f"# {role}: {_MEANS[role]}", *of_role, ""]
    return "\n".join(lines)


def _grants(catalogue: Catalogue, role: Role) -> Iterator[Grant]:
    principal = f"User:{catalogue.namespace}-{role}"
    if role == "operators":
        # Replaying writes to any topic of the namespace, and checking reads the settings of all of them.
        every = ("Read", "Write", "Create", "Describe", "DescribeConfigs", "AlterConfigs")
        yield Grant(role, principal, "topic", f"{catalogue.namespace}.", every, prefixed=True)
        yield Grant(role, principal, "group", f"{catalogue.namespace}-", ("Describe",), prefixed=True)
        return
    for plan in catalogue.topics():
        operations = [
            *(["Read"] if role in plan.kind.read_by else []),
            *(["Write"] if role in plan.kind.written_by else []),
            *(["Delete"] if plan.kind.name in _DELETES.get(role, ()) else []),
        ]
        if operations:
            yield Grant(role, principal, "topic", plan.name, tuple(operations))
    # At its start each role, the gateway too, checks that all topics are there with the partitions that it expects.
    yield Grant(role, principal, "topic", f"{catalogue.namespace}.", ("Describe",), prefixed=True)
    for group in _GROUPS.get(role, ()):
        yield Grant(role, principal, "group", f"{catalogue.namespace}-{group}", ("Read", "Describe"))
    if role == "control":
        # For the lag of every stage.
        for group in ("shards", "tools", "llm", "memory-sink"):
            yield Grant(role, principal, "group", f"{catalogue.namespace}-{group}", ("Describe",))
    if role == "shards":
        # How far the sink has come: what may be evicted.
        yield Grant(role, principal, "group", catalogue.flush_group, ("Describe",))
    if word := _TRANSACTIONS.get(role):
        name = f"{catalogue.namespace}-{word}-"
        yield Grant(role, principal, "transactional-id", name, ("Write", "Describe"), prefixed=True)
