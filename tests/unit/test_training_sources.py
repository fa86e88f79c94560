"""Kinds of sources: each is found by its name, and one that is not there ends in one line."""

import sys

import pytest

from training.config import parse
from training.errors import RunConfigError
from training.sources import LABELLED, NDVI, LabelledSource, UnknownSource, class_of


@pytest.mark.parametrize("kind", LABELLED)
def test_a_kind_of_labelled_parcels_is_a_source(kind: str) -> None:
    made = class_of(kind, LABELLED)
    assert issubclass(made, LabelledSource)
    assert "kind" in made.model_fields


@pytest.mark.parametrize("kind", NDVI)
def test_a_kind_of_series_opens(kind: str) -> None:
    assert callable(class_of(kind, NDVI)(kind).open)


@pytest.mark.parametrize("kind", [None, 3, "moon", ["nl"]])
def test_a_kind_that_is_none_is_refused(kind: object) -> None:
    with pytest.raises(UnknownSource, match=r"kind.*: one of database, "):
        class_of(kind, LABELLED)


def test_a_kind_of_an_extra_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "research.sources", None)
    with pytest.raises(
        RunConfigError, match=r"^run.toml: \[data\] kind = 'nl' needs .*-e '\.\[research\]' in the project"
    ):
        parse({"data": {"kind": "nl", "path": "x"}, "run": {"folder": "there"}}, "run.toml")


def test_all_that_is_wrong_is_reported_at_once() -> None:
    with pytest.raises(RunConfigError) as caught:
        parse({"data": {"kind": "pastis"}, "training": {"epochs": 0}, "run": {}}, "run.toml")
    assert "[data] path: missing; [training] epochs = 0" in str(caught.value)
    assert str(caught.value).endswith("[run] folder: missing")


@pytest.mark.parametrize("data", ["nl", 3, [], None])
def test_a_data_table_that_is_none_is_one_line(data: object) -> None:
    with pytest.raises(RunConfigError, match=r"^run.toml: \[data\] kind"):
        parse({"data": data, "run": {"folder": "there"}}, "run.toml")


def test_a_landscape_that_is_too_small_is_refused() -> None:
    with pytest.raises(RunConfigError, match=r"\[data\] parcels = 12: input should be greater than or equal to 40"):
        parse({"data": {"kind": "simulator", "parcels": 12}, "run": {"folder": "there"}}, "run.toml")
