"""What becomes of an error inside a command."""

import pytest
import typer

from streams.cli.failures import told
from streams.errors import BrokerUnavailable, SettingsError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BrokerUnavailable("Kafka is away"), 1, "error: Kafka is away\n"),
        (SettingsError("no such setting"), 2, "error: no such setting\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [BrokerUnavailable("gone")])]), 1, "error: gone\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, told():
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == line


def test_an_unexpected_error_names_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), told():
        raise KeyError("key")
    assert "error: KeyError: 'key' (unexpected, at " in (said := capsys.readouterr().err)
    assert "test_failures.py:" in said
    assert "--debug" in said


def test_debugging_lets_it_through() -> None:
    with pytest.raises(KeyError), told(lambda: True):
        raise KeyError("key")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), typer.Exit(4), typer.BadParameter("x")])
def test_ways_to_end_are_no_errors(error: BaseException) -> None:
    with pytest.raises(type(error)), told():
        raise error
