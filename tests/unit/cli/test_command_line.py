"""The command line without servers: help, what is wrong with a call, and what a person is told."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from streams.cli import app

APP_MODULE = """
from pydantic import BaseModel
from streams import App, Context

app = App("shop")
other = 3

class Ask(BaseModel):
    who: str

@app.agent(key="who")
async def greet(ctx: Context[None], request: Ask) -> str:
    return request.who
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a directory with a module `shop`, and with no settings but its own."""
    (tmp_path / "shop.py").write_text(APP_MODULE)
    (tmp_path / "broken.py").write_text("import shop\n1 / 0\n")
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    (tmp_path / "careless.py").write_text(
        "from streams import App\napp = App('a')\n@app.tool(timeout=1, effect='read')\nasync def t() -> int: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("STREAMS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("STREAMS_KAFKA__CONNECT_TIMEOUT_S", "0.3")
    monkeypatch.setenv("COLUMNS", "200")
    yield
    for name in ("shop", "broken", "needy", "careless"):
        sys.modules.pop(name, None)


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def refused(*arguments: str, **environment: str) -> str:
    """Return the one line that says why nothing was tried."""
    result = call(*arguments, **environment)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    return result.stderr


def commands(group: object = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every command, groups included."""
    found = [path]
    current = typer.main.get_command(app) if group is None else group
    if isinstance(current, TyperGroup):
        for name, command in current.commands.items():
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.exit_code == 0
    said = [line for line in result.stdout.splitlines() if line.strip() and "Usage:" not in line]
    assert len(said[0].split()) >= 4, f"{' '.join(path)} does not say what it does"


def test_all_commands_are_there() -> None:
    names = {path[0] for path in commands() if path}
    assert names >= {
        "run", "dev", "demo", "servers", "topics", "submit", "results", "inspect", "resume", "restart", "fail", "pause",
        "unpause", "signal", "cancel", "dead-letters", "breakers", "settings",
    }  # fmt: skip


def test_help_needs_neither_kafka_nor_postgres_nor_faust() -> None:
    code = "import sys, streams.cli; print(sys.modules.keys() & {'aiokafka', 'psycopg', 'faust', 'uvloop'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.here:app", "there is no module 'nothing'"),
        ("shop:nothing", "has no app 'nothing'; it has shop:app"),
        ("shop:other", "shop:other is of type int, which is no streams.App; it has shop:app"),
        ("shop", "write MODULE:APP (it has shop:app)"),
        ("shop.py:app", "write MODULE:APP with dots for folders"),
        ("broken:app", "ZeroDivisionError: division by zero"),
        ("needy:app", "imports 'no_such_library', which is not installed"),
        ("careless:app", "declares no fallback"),
    ],
)
def test_an_app_that_is_not_there_is_named(name: str, said: str) -> None:
    assert said in refused("topics", "acls", name)
    assert said in refused("submit", "greet", "--app", name, "--input", "{}")


def test_the_place_of_a_failing_import_is_named() -> None:
    assert "broken.py:2)" in refused("topics", "acls", "broken:app")


def test_input_that_is_not_json_is_shown_with_its_place() -> None:
    assert "--input is not JSON" in refused("submit", "greet", "--app", "shop:app", "--input", "{who: 1}")
    assert "character 1 of '{who: 1}'" in refused("submit", "greet", "--app", "shop:app", "--input", "{who: 1}")
    assert "--value is not JSON" in refused("signal", "greet/a/1", "go", "--value", "yes", "--app", "shop:app")


def test_an_input_file_that_is_missing_is_named() -> None:
    assert "@gone.json" in refused("submit", "greet", "--app", "shop:app", "--input", "@gone.json")


def test_input_comes_from_a_file_or_standard_input_too() -> None:
    Path("ask.json").write_text("[")
    assert "is not JSON" in refused("submit", "greet", "--app", "shop:app", "--input", "@ask.json")
    result = CliRunner().invoke(app, ["submit", "greet", "--app", "shop:app", "--input", "-"], input="[")
    assert "is not JSON" in result.stderr


def test_input_that_does_not_fit_the_agent_names_the_field() -> None:
    result = call("submit", "greet", "--app", "shop:app", "--input", '{"who": 3}')
    assert result.exit_code == 1
    assert result.stderr.startswith("error: input of agent 'greet': who:")


def test_an_unknown_agent_names_those_that_there_are() -> None:
    assert "has no agent 'sing'; it has greet" in refused("submit", "sing", "--app", "shop:app", "--input", "{}")


def test_an_agent_without_code_needs_a_key() -> None:
    assert "say greet/KEY" in refused("submit", "greet", "--namespace", "shop", "--input", "{}")


def test_a_key_that_is_not_the_derived_one_is_refused() -> None:
    said = refused("submit", "greet/bob", "--app", "shop:app", "--input", '{"who": "ann"}')
    assert "'bob' is not 'ann'" in said
    assert "keep one" in refused("submit", "greet/bob", "--key", "ann", "--app", "shop:app", "--input", "{}")


def test_an_application_must_be_named() -> None:
    assert "MODULE:APP, or --namespace NAME" in refused("results")
    assert "MODULE:APP, or --namespace NAME" in refused("topics", "check")


def test_unknown_and_wrong_settings_are_named() -> None:
    assert "STREAMS_COLOUR is not a setting" in refused("settings", STREAMS_COLOUR="red")
    assert "STREAMS_PARTITIONS" in refused("results", "--namespace", "shop", STREAMS_PARTITIONS="many")
    assert "STREAMS_CONFIG names 'gone.toml'" in refused("settings", STREAMS_CONFIG="gone.toml")


def test_an_unreachable_kafka_is_named_with_its_setting() -> None:
    for command in (["topics", "check"], ["results"], ["dead-letters", "list"], ["inspect", "a/b/c"]):
        result = call(*command, "--namespace", "shop")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: Kafka at 127.0.0.1:1 did not answer")
        assert "STREAMS_KAFKA__BOOTSTRAP_SERVERS" in result.stderr
        assert "Traceback" not in result.output


def test_an_invocation_id_that_is_none_is_explained() -> None:
    result = call("inspect", "greet/bob", "--namespace", "shop")
    assert result.exit_code == 2
    assert "name/key/idempotency-key" in result.stderr


def test_an_order_needs_a_reason() -> None:
    assert call("fail", "a/b/c", "--namespace", "shop").exit_code == 2
    assert call("fail", "a/b/c", "--namespace", "shop", "--reason", " ").exit_code == 2


def test_pausing_takes_the_name_of_an_agent() -> None:
    result = call("pause", "greet/bob", "--namespace", "shop", "--reason", "x")
    assert result.exit_code == 2
    assert "'greet'" in result.stderr


def test_replaying_needs_letters_or_all() -> None:
    assert "--all" in refused("dead-letters", "replay", "--namespace", "shop")
    assert "--all" in refused("dead-letters", "replay", "1-1", "--all", "--namespace", "shop")


def test_grants_need_no_connection() -> None:
    result = call("topics", "acls", "shop:app")
    assert result.exit_code == 0
    assert "--allow-principal User:shop-shards" in result.stdout
    assert call("topics", "acls", "--namespace", "till").stdout.count("User:till-clients") > 3
    assert {grant["role"] for grant in orjson.loads(call("topics", "acls", "shop:app", "--json").stdout)} >= {"shards"}


def test_settings_are_printed_without_secrets() -> None:
    secret = {"STREAMS_MEMORY__DSN": "postgresql://me:hush@db/x", "STREAMS_KAFKA__SASL_PASSWORD": "hush"}
    result = call("settings", STREAMS_PARTITIONS="12", **secret)
    assert result.exit_code == 0
    assert "STREAMS_PARTITIONS=12" in result.stdout
    assert "hush" not in result.output
    changed = call("settings", "--changed", "--json", STREAMS_PARTITIONS="12", **secret)
    assert orjson.loads(changed.stdout) == {
        "STREAMS_PARTITIONS": 12,
        "STREAMS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "STREAMS_KAFKA__CONNECT_TIMEOUT_S": 0.3,
        "STREAMS_KAFKA__SASL_PASSWORD": "**********",
        "STREAMS_MEMORY__DSN": "**********",
    }


def test_debug_shows_the_traceback() -> None:
    result = call("--debug", "results")
    assert type(result.exception).__name__ == "ConfigurationError"


def test_servers_kept_in_this_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streams.cli.embedded import FOLDER
    from streams.cli.server_state import ServerAddresses, keeping, publish

    monkeypatch.delenv("STREAMS_KAFKA__BOOTSTRAP_SERVERS")
    with keeping(FOLDER):
        publish(FOLDER, ServerAddresses("127.0.0.1:2", "postgresql://x"))
        assert "Kafka at 127.0.0.1:2 did not answer" in call("results", "--namespace", "shop").stderr
