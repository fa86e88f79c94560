"""Recorded data are found by one rule: as given, else in PARCELWATCH_DATA, else under the kind's own name there."""

from pathlib import Path

import pytest

from research.experiments.schemes import ExperimentError
from research.places import data_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data" / "be-flanders-patches").mkdir(parents=True)
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARCELWATCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_a_folder_is_as_given_else_a_name_in_the_data_else_the_kinds_own(root: Path) -> None:
    assert data_folder("nl", Path("here")) == Path("here")
    assert data_folder("nl", Path("mine")) == root / "mine"
    assert data_folder("pastis", root / "mine") == root / "mine"
    assert data_folder("patches") == root / "be-flanders-patches"


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("nl", None, r"nl-noordoostpolder-2023: no such folder; set PARCELWATCH_DATA"),
        ("nl", Path("nowhere"), r"nowhere: no such folder, neither here nor in PARCELWATCH_DATA"),
        ("pastis", None, "source pastis: name its folder"),
    ],
)
def test_a_folder_that_is_not_there_is_one_line_with_its_cause(
    root: Path, kind: str, given: Path | None, reason: str
) -> None:
    assert root.is_dir()
    with pytest.raises(ExperimentError, match=reason):
        data_folder(kind, given)
