"""The files in schemas/: current, and compatible both ways with what was released."""

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml
from fastavro.utils import generate_many

from streams.errors import UnknownSchema
from streams.records import RECORDS, decode, encode
from streams.records.__main__ import FOLDER, RELEASED, derived, main, release, stale, write
from streams.records.asyncapi import MESSAGES, is_public
from streams.records.avro import file_name, schema_of
from streams.records.codec import MARKER, fingerprint_of, schema_files
from streams.records.signals import Cancel
from streams.records.topics import KINDS
from streams.shards import inputs

SAMPLES = 50
BY_NAME = {record.__name__: record for record in RECORDS}
RELEASED_FILES = sorted((FOLDER / RELEASED).glob("*.avsc"))


def load(path: Path) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def across(written_as: dict[str, Any], read_as: dict[str, Any]) -> None:
    """Write random values with one schema and read them with the other."""
    writer, reader = fastavro.parse_schema(dict(written_as)), fastavro.parse_schema(dict(read_as))
    names = {field["name"] for field in read_as["fields"]}
    for value in generate_many(writer, SAMPLES):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, writer, value)
        buffer.seek(0)
        read: Any = fastavro.schemaless_reader(buffer, writer, reader)
        assert read.keys() == names


def test_the_files_are_what_the_records_say() -> None:
    assert stale() == [], "run `make schemas`"


@pytest.mark.parametrize("path", RELEASED_FILES, ids=lambda path: path.stem)
def test_new_code_reads_what_a_release_wrote(path: Path) -> None:
    across(load(path), schema_of(BY_NAME[load(path)["name"]]))


@pytest.mark.parametrize("path", RELEASED_FILES, ids=lambda path: path.stem)
def test_a_release_reads_what_new_code_writes(path: Path) -> None:
    across(schema_of(BY_NAME[load(path)["name"]]), load(path))


def test_every_record_was_released() -> None:
    assert {load(path)["name"] for path in RELEASED_FILES} == set(BY_NAME)


@pytest.mark.parametrize("path", RELEASED_FILES, ids=lambda path: path.stem)
def test_the_codec_decodes_what_a_release_wrote(path: Path) -> None:
    schema = fastavro.parse_schema(load(path))
    for value in generate_many(schema, SAMPLES):
        body = io.BytesIO()
        fastavro.schemaless_writer(body, schema, value)
        record = decode(MARKER + fingerprint_of(load(path)) + body.getvalue())
        assert type(record) is BY_NAME[load(path)["name"]]


def test_the_codec_finds_the_released_schemas() -> None:
    assert schema_files(RELEASED) == RELEASED_FILES


def test_a_schema_of_a_later_version_is_not_known() -> None:
    later = schema_of(Cancel)
    later["fields"].append({"name": "urgency", "type": "long", "default": 0})
    with pytest.raises(UnknownSchema):
        decode(MARKER + fingerprint_of(later) + encode(Cancel("a/k/1", "", "", 0))[10:] + b"\0")


def test_writing_makes_the_files_current_and_deletes_those_of_no_record(tmp_path: Path) -> None:
    (tmp_path / "gone.avsc").write_text("{}")
    (tmp_path / "cancel.avsc").write_text("{}")
    assert set(write(tmp_path)) == {"gone.avsc", *derived()}
    assert stale(tmp_path) == []
    assert write(tmp_path) == []


def test_a_release_keeps_schemas_that_no_release_has(tmp_path: Path) -> None:
    assert len(release("1.0", tmp_path)) == len(RECORDS)
    kept = tmp_path / RELEASED / file_name(Cancel, "1.0")
    assert release("1.0", tmp_path) == []
    assert release("1.1", tmp_path) == []
    kept.write_text(kept.read_text().replace('"reason"', '"cause"'))
    assert release("1.1", tmp_path) == [file_name(Cancel, "1.1")]
    assert kept.exists()


def test_check_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out == ""


ASYNCAPI = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text(encoding="utf-8"))


def resolve(reference: str) -> Any:
    if reference.startswith("./"):
        return load(FOLDER / reference)
    found: Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_asyncapi_has_what_version_3_demands() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= ASYNCAPI["info"].keys()
    assert ASYNCAPI.keys() <= {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    for operation in ASYNCAPI["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert resolve(operation["channel"]["$ref"])["address"].startswith("{namespace}.")
    for channel in ASYNCAPI["channels"].values():
        assert channel["parameters"].keys() == {"namespace"}
        assert channel["messages"]
        assert channel["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"] in (
            ["delete"],
            ["compact"],
            ["compact", "delete"],
        )


def test_every_reference_of_asyncapi_leads_somewhere() -> None:
    assert all(resolve(reference) for reference in references(ASYNCAPI))


def test_asyncapi_has_every_public_topic() -> None:
    public = {kind.name for kind in KINDS.values() if is_public(kind)}
    assert ASYNCAPI["channels"].keys() == public == MESSAGES.keys()
    assert {"invocations", "results", "signals", "backpressure"} <= public
    assert "journal" not in public


def test_asyncapi_describes_json_invocations_as_the_shard_reads_them() -> None:
    payload = ASYNCAPI["components"]["messages"]["InvocationJson"]["payload"]
    assert payload["properties"].keys() == inputs._JSON_FIELDS
