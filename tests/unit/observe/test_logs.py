"""What is logged through structlog and the standard library comes out the same way."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from streams.observe.logs import configure_logs
from streams.observe.settings import ObserveSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    names = ("faust", "mode", "uvicorn", "httpx2", "httpcore2", "asyncio", "aiohttp", "aiokafka")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
    for name, its_level in levels.items():
        logging.getLogger(name).setLevel(its_level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_both_kinds_of_loggers_write_the_same_json_lines():
    out = io.StringIO()
    configure_logs(ObserveSettings(), out)
    structlog.get_logger("streams.shards").info("shard restored", partition=3)
    logging.getLogger("streams.memory").warning("%s is away", "Postgres", extra={"dsn": "db"})
    first, second = lines(out)
    assert (first["event"], first["partition"], first["level"]) == ("shard restored", 3, "info")
    assert (second["event"], second["dsn"], second["logger"]) == ("Postgres is away", "db", "streams.memory")
    assert str(first["timestamp"]).endswith("Z")
    assert list(second) == ["timestamp", "level", "logger", "event", "dsn"]


def fail() -> None:
    try:
        private = "".join(("hun", "ter2"))
        raise ValueError("broken by " + private[:1])
    except ValueError:
        logging.getLogger("x").exception("failed")


def test_an_exception_is_one_line_with_its_frames():
    out = io.StringIO()
    configure_logs(ObserveSettings(), out)
    fail()
    (line,) = lines(out)
    assert "broken by h" in str(line["exception"])


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_local_variables_are_not_logged(out):
    configure_logs(ObserveSettings(), out)
    fail()
    assert "broken by h" in out.getvalue()
    assert "hunter2" not in out.getvalue()


def test_people_at_a_terminal_get_text():
    out = Terminal()
    configure_logs(ObserveSettings(), out)
    structlog.get_logger("x").info("shard restored", partition=3)
    assert "shard restored" in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_the_setting_decides_over_the_terminal():
    out = Terminal()
    configure_logs(ObserveSettings(log_format="json"), out)
    structlog.get_logger("x").info("here")
    assert lines(out)[0]["event"] == "here"


def test_noise_of_libraries_is_kept_out_and_can_be_let_in():
    out = io.StringIO()
    configure_logs(ObserveSettings(), out)
    logging.getLogger("faust.worker").info("starting part 17")
    assert out.getvalue() == ""
    configure_logs(ObserveSettings(log_levels={"faust": "debug"}, log_level="debug"), out)
    logging.getLogger("faust.worker").debug("starting part 17")
    assert len(lines(out)) == 1


def test_the_level_holds_for_both():
    out = io.StringIO()
    configure_logs(ObserveSettings(log_level="error"), out)
    structlog.get_logger("x").warning("no")
    logging.getLogger("x").warning("no")
    assert out.getvalue() == ""


def test_a_second_call_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    configure_logs(ObserveSettings(), first)
    configure_logs(ObserveSettings(), second)
    logging.getLogger("x").warning("once")
    assert (first.getvalue(), len(lines(second))) == ("", 1)
