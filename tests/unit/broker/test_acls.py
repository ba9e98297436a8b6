"""What each role may do, and that it is no more than it needs."""

from streams.broker.acls import Grant, acls, render
from streams.records.topics import Catalogue

PAYMENTS = Catalogue("payments", lanes={"tool-calls": ["slow-crm"]})


def grants(role: str, resource: str) -> dict[str, tuple[str, ...]]:
    return {
        grant.name: grant.operations for grant in acls(PAYMENTS) if (grant.role, grant.resource) == (role, resource)
    }


def test_a_client_writes_invocations_and_reads_results_only() -> None:
    topics = grants("clients", "topic")
    assert topics["payments.invocations"] == ("Write",)
    assert topics["payments.results"] == ("Read",)
    assert "payments.journal" not in topics
    assert grants("clients", "transactional-id") == {}


def test_only_a_shard_fences_with_the_ids_of_shards() -> None:
    holders = {g.role for g in acls(PAYMENTS) if g.resource == "transactional-id" and g.name == "payments-shard-"}
    assert holders == {"shards"}


def test_a_shard_may_delete_what_it_has_consumed() -> None:
    topics = grants("shards", "topic")
    assert topics["payments.invocations"] == ("Read", "Write", "Delete")
    assert topics["payments.results"] == ("Write",)


def test_workers_may_delete_calls_that_they_have_answered_and_nothing_else() -> None:
    def deleted(role: str) -> set[str]:
        return {name for name, operations in grants(role, "topic").items() if "Delete" in operations}

    assert deleted("tools") == {"payments.tool-calls", "payments.tool-calls.slow-crm", "payments.tool-overflow"}
    assert deleted("llm") == {"payments.llm-requests"}
    assert deleted("memory") == deleted("clients") == set()


def test_only_shards_write_results() -> None:
    writers = {g.role for g in acls(PAYMENTS) if g.name == "payments.results" and "Write" in g.operations}
    assert writers == {"shards"}


def test_groups_are_those_that_roles_join_and_commit_to() -> None:
    assert set(grants("shards", "group")) == {"payments-shards", "payments-shards-owners", "payments-memory-sink"}
    assert set(grants("tools", "group")) == {"payments-tools", "payments-tools-owners"}
    assert set(grants("memory", "group")) == {"payments-memory", "payments-memory-sink"}
    looked_at = ("payments-shards", "payments-tools", "payments-llm", "payments-memory-sink")
    assert grants("control", "group") == {
        "payments-control": ("Read", "Describe"),
        **dict.fromkeys(looked_at, ("Describe",)),
    }


def test_dispatchers_claim_on_their_own_topic_with_ids_that_fence_no_tool_worker() -> None:
    assert grants("llm", "topic")["payments.llm-claims"] == ("Read", "Write")
    assert "payments.tool-claims" not in grants("llm", "topic")
    assert "payments.llm-claims" not in grants("tools", "topic")
    ids = {role: tuple(grants(role, "transactional-id")) for role in ("llm", "tools")}
    assert "payments-llm-claims-0".startswith(ids["llm"])
    assert not "payments-llm-claims-0".startswith(ids["tools"])
    assert not "payments-claims-0".startswith(ids["llm"])


def test_lanes_are_granted_like_their_topic() -> None:
    assert grants("tools", "topic")["payments.tool-calls.slow-crm"] == grants("tools", "topic")["payments.tool-calls"]


def test_a_grant_is_a_line_for_kafka_acls() -> None:
    grant = Grant("shards", "User:payments-shards", "transactional-id", "payments-shard-", ("Write",), prefixed=True)
    assert grant.command("k:9092") == (
        "kafka-acls.sh --bootstrap-server k:9092 --command-config admin.properties --add "
        "--allow-principal User:payments-shards --operation Write --transactional-id payments-shard- "
        "--resource-pattern-type prefixed"
    )


def test_the_script_has_every_grant() -> None:
    script = render(acls(PAYMENTS), "k:9092")
    assert all(grant.command("k:9092") in script for grant in acls(PAYMENTS))
