"""Variables of the environment: mistakes in them are named, their values never are."""

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

import monitor.alerts.settings
from devstack.addresses import ServerSettings
from ingest.imagery.settings import ImagerySettings
from ingest.stream.settings import IngestSettings
from monitor.settings import MonitorSettings
from terminal.environment import setting_errors, unknown_variables

CASES = [
    (IngestSettings, "PARCELWATCH_INGEST_REJECT_CAP", "s3cret", "Input should be a valid number"),
    (IngestSettings, "PARCELWATCH_INGEST_REJECT_CAP", "1.5", "Input should be less than or equal to 1"),
    (IngestSettings, "parcelwatch_ingest_accept_gap", "s3cret", "Input should be a valid boolean"),
    (MonitorSettings, "PARCELWATCH_MONITOR_RULES__MISMATCH_DECLARED_BELOW", "s3cret", "Input should be a valid number"),
    (MonitorSettings, "PARCELWATCH_MONITOR_PRECISION", "s3cret", "Input should be 'float32' or 'bfloat16'"),
    (ImagerySettings, "PARCELWATCH_IMAGERY_CLEAR_CLASSES", "[4, 99]", "Input should be less than or equal to 11"),
    (ImagerySettings, "PARCELWATCH_IMAGERY_CLEAR_CLASSES", "4;s3cret", "JSON is needed, such as [4, 5]"),
    (MonitorSettings, "PARCELWATCH_MONITOR_RULES", "s3cret", "JSON is needed, such as [4, 5]"),
]


@pytest.mark.parametrize(("settings", "variable", "value", "reason"), CASES)
def test_an_invalid_value_is_reported_by_its_variable(
    settings: type[IngestSettings], variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises((ValidationError, SettingsError)) as raised:
        settings()
    line = setting_errors(raised.value, {variable: value})  # type: ignore[arg-type]
    assert line.startswith(f"{variable.upper()}: {reason}")
    assert "\n" not in line
    assert "s3cret" not in line


def test_several_invalid_values_are_all_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_INGEST_REJECT_CAP", "2")
    monkeypatch.setenv("PARCELWATCH_INGEST_PARTITIONS", "0")
    with pytest.raises(ValidationError) as raised:
        IngestSettings()
    line = setting_errors(raised.value, {"PARCELWATCH_INGEST_REJECT_CAP": "2", "PARCELWATCH_INGEST_PARTITIONS": "0"})
    assert "PARCELWATCH_INGEST_REJECT_CAP: " in line
    assert "PARCELWATCH_INGEST_PARTITIONS: " in line


def test_a_value_that_no_variable_gave_is_not_blamed_on_one() -> None:
    with pytest.raises(ValidationError) as raised:
        IngestSettings(partitions=0)
    assert setting_errors(raised.value, {}) == "IngestSettings.partitions: Input should be greater than or equal to 1"


def test_every_setting_is_known() -> None:
    environ = dict.fromkeys([f"PARCELWATCH_INGEST_{name.upper()}" for name in IngestSettings.model_fields], "1")
    environ |= dict.fromkeys([f"PARCELWATCH_{name.upper()}" for name in ServerSettings.model_fields], "1")
    rules = monitor.alerts.settings.RuleSettings.__dataclass_fields__
    environ |= dict.fromkeys([f"PARCELWATCH_MONITOR_RULES__{name.upper()}" for name in rules], "1")
    environ |= {"parcelwatch_dsn": "", "PARCELWATCH_HOME": "", "PARCELWATCH_TEST_DSN": "", "PATH": ""}
    assert unknown_variables(environ) == []


def test_a_mistyped_variable_is_reported_with_the_one_that_is_meant() -> None:
    environ = {
        "PARCELWATCH_INGEST_REJECT_CAPS": "s3cret",
        "PARCELWATCH_MONITOR_RULES__MISMATCH": "1",
        "PARCELWATCH_QUUX": "1",
    }
    first, second, third = unknown_variables(environ)
    assert first == (
        "PARCELWATCH_INGEST_REJECT_CAPS is not known and changes nothing: PARCELWATCH_INGEST_REJECT_CAP is meant?"
    )
    assert second.startswith("PARCELWATCH_MONITOR_RULES__MISMATCH is not known and changes nothing")
    assert third == "PARCELWATCH_QUUX is not known and changes nothing"
