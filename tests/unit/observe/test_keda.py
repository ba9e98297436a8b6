"""The KEDA manifest: of the shape that KEDA documents, and about topics, groups and metrics that there are.

No cluster and no KEDA run here. The shape is written down from the fields that the ScaledObject's CRD (v1alpha1) and
the documentation of the two scalers list; what is not listed is refused, as a misspelt field would be ignored silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from streams.backpressure.stages import stages_of
from streams.records.topics import Catalogue
from tests.unit.observe.queries import problems

MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((Path(__file__).parents[3] / "infra" / "k8s" / "keda.yaml").read_text())
)
CATALOGUE = Catalogue("payments", 48)


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}  # metadata of triggers are texts, numbers and flags too
FLAG = {"enum": ["true", "false"]}
RULES = closed(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3_600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={
        "type": "array",
        "items": closed(
            ("type", "value", "periodSeconds"),
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1_800},
        ),
    },
)
KAFKA = closed(
    ("bootstrapServers", "consumerGroup", "topic"),
    bootstrapServers=TEXT, consumerGroup=TEXT, topic=TEXT, lagThreshold=NUMBER, activationLagThreshold=NUMBER,
    offsetResetPolicy={"enum": ["latest", "earliest"]}, allowIdleConsumers=FLAG, scaleToZeroOnInvalidOffset=FLAG,
    excludePersistentLag=FLAG, limitToPartitionsWithLag=FLAG, ensureEvenDistributionOfPartitions=FLAG,
    version={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}, partitionLimitation=TEXT, sasl=TEXT, tls=TEXT,
    unsafeSsl=FLAG,
)  # fmt: skip
PROMETHEUS = closed(
    ("serverAddress", "query", "threshold"),
    serverAddress={"type": "string", "pattern": "^https?://"}, query=TEXT, threshold=NUMBER,
    activationThreshold=NUMBER, ignoreNullValues=FLAG, unsafeSsl=FLAG, namespace=TEXT, customHeaders=TEXT,
    queryParameters=TEXT, authModes=TEXT, timeout=NUMBER,
)  # fmt: skip
TRIGGER = closed(
    ("type", "metadata"),
    type={"enum": ["kafka", "prometheus"]},
    metadata={"type": "object", "additionalProperties": {"type": "string"}},
    name=TEXT,
    metricType={"enum": ["Value", "AverageValue", "Utilization"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=closed(("name",), name=TEXT, kind=TEXT),
) | {
    "allOf": [
        {"if": {"properties": {"type": {"const": kind}}}, "then": {"properties": {"metadata": metadata}}}
        for kind, metadata in (("kafka", KAFKA), ("prometheus", PROMETHEUS))
    ]
}
SCALED_OBJECT = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=closed(("name",), name=TEXT, namespace=TEXT, labels={"type": "object"}, annotations={"type": "object"}),
    spec=closed(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=closed(("name",), name=TEXT, kind=TEXT, apiVersion=TEXT, envSourceContainerName=TEXT),
        pollingInterval=COUNT, cooldownPeriod=COUNT, initialCooldownPeriod=COUNT, idleReplicaCount=COUNT,
        minReplicaCount=COUNT, maxReplicaCount=COUNT,
        fallback=closed(("failureThreshold", "replicas"), failureThreshold=COUNT, replicas=COUNT),
        advanced=closed(
            restoreToOriginalReplicaCount={"type": "boolean"},
            horizontalPodAutoscalerConfig=closed(name=TEXT, behavior=closed(scaleUp=RULES, scaleDown=RULES)),
        ),
        triggers={"type": "array", "minItems": 1, "items": TRIGGER},
    ),
)  # fmt: skip
SHAPE = Draft202012Validator(SCALED_OBJECT)

named = pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["metadata"]["name"])


@named
def test_the_shape_is_the_documented_one(manifest: dict[str, Any]) -> None:
    assert [f"{error.json_path}: {error.message}" for error in SHAPE.iter_errors(manifest)] == []


def test_a_misspelt_field_and_a_number_that_is_no_text_are_found() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(MANIFESTS[0]))
    wrong["spec"]["maxReplicas"] = 4
    wrong["spec"]["triggers"][0]["metadata"]["lagThreshold"] = 500
    wrong["spec"]["triggers"][1]["metadata"]["treshold"] = "1"
    found = {error.json_path for error in SHAPE.iter_errors(wrong)}
    assert found >= {"$.spec", "$.spec.triggers[0].metadata.lagThreshold", "$.spec.triggers[1].metadata"}


@named
def test_topics_and_groups_are_those_of_the_application(manifest: dict[str, Any]) -> None:
    known = {(stage.topic, stage.group) for stage in stages_of(CATALOGUE)}
    asked = {(t["metadata"]["topic"], t["metadata"]["consumerGroup"]) for t in of_kind(manifest, "kafka")}
    assert asked
    assert asked <= known


@named
def test_queries_ask_only_for_what_the_registry_has(manifest: dict[str, Any]) -> None:
    assert [problems(trigger["metadata"]["query"]) for trigger in of_kind(manifest, "prometheus")] in ([], [[]])


@named
def test_there_are_no_more_replicas_than_partitions(manifest: dict[str, Any]) -> None:
    assert 1 <= manifest["spec"]["minReplicaCount"] <= manifest["spec"]["maxReplicaCount"] <= CATALOGUE.partitions


def of_kind(manifest: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [trigger for trigger in manifest["spec"]["triggers"] if trigger["type"] == kind]
