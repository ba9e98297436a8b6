import pytest

from streams import SettingsError, load_settings


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "streams.toml").write_text("partitions = 8\n[kafka]\nclient_id = 'file'\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMS_KAFKA__CLIENT_ID", "environment")
    settings = load_settings()
    assert (settings.partitions, settings.kafka.client_id) == (8, "environment")


def test_an_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_PARTITION", "8")
    with pytest.raises(SettingsError, match="STREAMS_PARTITION is not a setting"):
        load_settings()


def test_a_value_that_does_not_validate_is_named_without_being_quoted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_KAFKA__SASL_PASSWRD", "hush")
    with pytest.raises(SettingsError, match="STREAMS_KAFKA__SASL_PASSWRD") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_what_is_for_the_tests_is_no_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_TEST_KAFKA_IMAGE", "kafka:test")
    monkeypatch.setenv("STREAMS_TEST_CONTAINERS", "always")
    load_settings()


def test_a_settings_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"STREAMS_CONFIG names 'nowhere\.toml'"):
        load_settings()


def test_what_a_check_of_ours_says_begins_the_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_LLM__POOLS", '{"fast": {"model": "m", "base_url": "localhost:8000"}}')
    with pytest.raises(SettingsError, match="setting STREAMS_LLM__POOLS__FAST__BASE_URL: it must begin"):
        load_settings()


def test_json_that_cannot_be_read_is_named_without_being_quoted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STREAMS_LLM__POOLS", "{hush}")
    with pytest.raises(SettingsError, match=r"setting STREAMS_LLM__POOLS is not JSON: .* at character 2;") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_a_settings_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "streams.toml").write_text("[llm.pools.fast\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"streams.toml is not TOML: .*line 1"):
        load_settings()
