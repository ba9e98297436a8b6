import pytest
from pydantic import ValidationError

from streams import SettingsError, load_settings
from streams.breakers import BreakerSettings


def test_a_dependency_has_its_own_thresholds_over_those_of_all():
    settings = BreakerSettings.model_validate({"open_s": 9, "per_dependency": {"tool:crm": {"failure_rate": 0.1}}})
    crm, other = settings.policy_of("tool:crm"), settings.policy_of("tool:erp")
    assert (crm.open_s, crm.failure_rate) == (9, 0.1)
    assert (other.open_s, other.failure_rate) == (9, 0.5)


def test_postgres_is_judged_by_few_calls_unless_told_otherwise():
    assert BreakerSettings(open_s=9).policy_of("postgres").minimum_calls == 3
    assert BreakerSettings(open_s=9).policy_of("postgres").open_s == 9
    own = BreakerSettings.model_validate({"per_dependency": {"postgres": {"minimum_calls": 5, "grace_s": 9}}})
    assert own.policy_of("postgres").minimum_calls == 5
    assert (own.grace_of("postgres"), own.grace_of("tool:crm")) == (9, 5)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"crm": {}}, "'crm' is not a dependency; write tool:NAME, llm:POOL or postgres"),
        ({"tool:": {}}, "'tool:' is not a dependency"),
        ({"tool:crm": {"failure_rate": 7}}, "failure_rate"),
        ({"tool:crm": {"minimum_calls": 90}}, "minimum_calls 90 exceeds window_calls 50"),
        ({"tool:crm": 3}, "tool:crm"),
        (7, "per_dependency"),
    ],
)
def test_thresholds_of_a_dependency_outside_their_range_are_named(own, says):
    with pytest.raises(ValidationError, match=says):
        BreakerSettings.model_validate({"per_dependency": own})


def test_thresholds_come_from_the_environment_and_wrong_ones_are_named_by_their_variable(monkeypatch):
    monkeypatch.setenv("STREAMS_BREAKERS__OPEN_S", "7")
    monkeypatch.setenv("STREAMS_BREAKERS__IGNORED_ERRORS", '["NotFound"]')
    monkeypatch.setenv("STREAMS_BREAKERS__PER_DEPENDENCY", '{"llm:fast": {"window_s": 60}}')
    breakers = load_settings().breakers
    assert breakers.policy_of("llm:fast").window_s == 60
    assert breakers.policy_of("llm:fast").open_s == 7
    assert breakers.ignores("NotFound")
    monkeypatch.setenv("STREAMS_BREAKERS__FAILURE_RATE", "1.5")
    with pytest.raises(SettingsError, match="STREAMS_BREAKERS__FAILURE_RATE: Input should be less than or equal to 1"):
        load_settings()
