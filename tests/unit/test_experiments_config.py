"""Configurations: what is written is read back, and what is wrong is said in one line with what is allowed."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from training.config import parse, read, to_toml
from training.errors import RunConfigError

LEAST: dict[str, Any] = {"data": {"kind": "nl", "path": "somewhere"}, "run": {"folder": "there"}}
DATA = [
    LEAST["data"],
    {"kind": "database", "season": "2025", "collection": "c", "scored_on": ["2025-04-30"]},
    {"kind": "pastis-pixelset", "path": "p", "cache": "c"},
    {"kind": "pastis", "path": "p"},
    {"kind": "simulator", "parcels": 50},
]


@pytest.mark.parametrize("data", DATA, ids=[one["kind"] for one in DATA])
def test_what_is_written_is_read_back(data: dict[str, Any], tmp_path: Path) -> None:
    config = parse({**LEAST, "data": data, "training": {"seed": 3, "folds": [2, 1]}}, "here")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert read(tmp_path / "config.toml") == config
    assert tomllib.loads(to_toml(config))["training"]["folds"] == [2, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": {"kind": "pastis"}}, "[data] path: missing"),
        ({"data": {"kind": "nl", "path": "x", "seed": 1}}, "[data] seed: unknown; known are kind, path"),
        (
            {"data": {"kind": "moon"}},
            "[data] kind = 'moon': one of database, pastis, pastis-pixelset, nl, fr, simulator",
        ),
        ({"data": {}}, "[data] kind: one of database"),
        ({"training": {"epochs": "ten"}}, "[training] epochs = 'ten': input should be a valid integer"),
        ({"training": {"folds": [6]}}, "[training] folds: different numbers from 1 to 5, at least one, not [6]"),
        (
            {"training": {"validation": "fold", "inner_folds": 3}},
            'inner_folds: more than one needs validation = "blocks"',
        ),
        ({"training": {"final": True, "folds": [1]}}, "final: its temperature needs the logits of all five folds"),
        (
            {"training": {"validation": "blocks", "inner_folds": 3, "refit": False}},
            "refit: without it there is one model for each",
        ),
        (
            {"model": {"fusion": "none"}},
            "[model] fusion = 'none': input should be 'late', 'early', 'mid' or 'decision'",
        ),
        ({"modle": {}}, "[modle]: unknown; known are data, model, training, run"),
        ({"run": {}}, "[run] folder: missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RunConfigError) as caught:
        parse({**LEAST, **given}, "run.toml")
    assert str(caught.value).startswith("run.toml: [")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunConfigError, match="no such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[data")
    with pytest.raises(RunConfigError, match="not TOML"):
        read(tmp_path / "bad.toml")


def test_neither_device_nor_folder_makes_another_run() -> None:
    one = parse(LEAST, "")
    moved = parse({**LEAST, "run": {"folder": "elsewhere"}, "training": {"device": "cuda"}}, "")
    assert one.identity == moved.identity != parse({**LEAST, "training": {"seed": 1}}, "").identity
