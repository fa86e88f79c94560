"""A policy through the chain: tried, put in force, asked of parcels without any trained model, and shown."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import observations, recording
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream.schemas import S2
from monitor import schedule
from monitor.settings import MonitorSettings
from monitor.worker import Worker

POLICY = """name = "grass"
version = 1

[[obligation]]
name = "not_ploughed"
kind = "not_ploughed"
title = "Permanent grassland is not ploughed"
from = 2025-01-01
until = 2025-12-31

[obligation.parcels]
crops = ["code:265"]

[[obligation]]
name = "cover"
kind = "cover_days"
from = 2025-08-01
until = 2025-11-30
"""
Run = Callable[..., Any]


@pytest.fixture
def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    return lambda *words: CliRunner().invoke(parcelwatch.app, list(words), catch_exceptions=False)


@pytest.fixture(autouse=True)
def season(dsn: str) -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    with engine(dsn).begin() as connection:
        recording.take_the_callers_clock(connection)
        stored = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
        rows = [
            ParcelRow(name, "r", None, 1.0, 400.0, 0.9, None, crop, "grass" if crop == "265" else "wheat")
            for name, crop in (("ploughed", "265"), ("mown", "265"), ("wheat", "1"))
        ]
        upsert_parcels(connection, "test", stored, rows, now, now)


def on(day: int) -> datetime:
    return datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=day)


def store(dsn: str, name: str, day: int, ndvi: float | None, revision: int = 0, known: int | None = None) -> None:
    row = dict.fromkeys(S2.arrow.names) | {
        "collection": "test",
        "season": "2025",
        "parcel_id": name,
        "observed_at": on(day),
        "available_at": on(day),
        "scene_id": f"{day}-{revision}",
        "platform": "S2A",
        "relative_orbit": 8,
        "revision": revision,
        "is_withdrawn": ndvi is None,
        "NDVI": ndvi,
        "n_clear": 0 if ndvi is None else 20,
    }
    with engine(dsn).begin() as connection:
        key = connection.execute(
            sa.text("select parcel_key from parcels where source_id = :n"), {"n": name}
        ).scalar_one()
        table = pa.Table.from_pylist([row], schema=S2.arrow)
        observations.insert(connection, "S2", table, np.array([key]), on(day if known is None else known))


def poll(dsn: str, day: int) -> None:
    schedule.once(Worker(dsn, MonitorSettings()), on(day))


def lights(dsn: str, rule: str) -> dict[str, str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            """select distinct on (source_id) source_id, coalesce(colour::text, outcome::text) from findings
               join parcels using (parcel_key) where rule = %s order by source_id, findings.recorded_at desc""",
            [rule],
        )
        return dict(rows.fetchall())


VIEWS = ((60, 0.6), (80, 0.7), (120, 0.2), (135, 0.2))


def test_a_policy_is_asked_without_any_model(dsn: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(POLICY)
    assert "obligations: 2" in run("policy", "check", str(file)).output
    for day, ndvi in VIEWS:
        store(dsn, "ploughed", day, ndvi)
        store(dsn, "mown", day, max(ndvi, 0.4))
        store(dsn, "wheat", day, ndvi)
    poll(dsn, 100)
    assert lights(dsn, "not_ploughed") == {}  # nothing watches the season
    said = run("policy", "activate", str(file), "--season", "2025", "--why", "spring").output
    assert "3 parcels are asked anew" in said
    poll(dsn, 136)
    assert lights(dsn, "not_ploughed") == {"ploughed": "red", "mown": "green", "wheat": "NOT_EXECUTED"}
    assert lights(dsn, "cover") == dict.fromkeys(("ploughed", "mown", "wheat"), "NOT_EXECUTED")
    listed = json.loads(run("alerts", "--rule", "not_ploughed", "--json").output)
    assert (listed["source_id"], listed["colour"], listed["state"]) == ("ploughed", "red", "open")
    shown = run("alerts", "show", str(listed["alert_key"])).output
    assert "bare soil (NDVI below 0.3)" in " ".join(shown.split())
    # The observation that made it red is withdrawn: one bare view is left.
    store(dsn, "ploughed", 135, None, revision=1, known=140)
    poll(dsn, 140)
    assert lights(dsn, "not_ploughed")["ploughed"] == "yellow"
    # Its curve is the simple one, since no NDVI model is active.
    with psycopg.connect(dsn) as connection:
        curves = connection.execute(
            """select config->>'kind', count(distinct parcel_key), bool_or(origin = 'reconstructed'), min(ndvi_sd), max(ndvi_sd)
               from daily_ndvi join models using (model_key) group by 1"""
        ).fetchall()
        assert [row[:3] for row in curves] == [("whittaker", 3, True)]
        assert curves[0][3] < 0.05 < 0.15 < curves[0][4]
        assert connection.execute("select count(*) from phenology").fetchone() != (0,)
    # Cloud alone moves an obligation too: its window has begun.
    store(dsn, "wheat", 213, None)
    store(dsn, "wheat", 214, 0.5)
    poll(dsn, 214)
    assert lights(dsn, "cover")["wheat"] == "NOT_VALID"


def test_a_trial_says_what_was_known_on_each_day(dsn: str, run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "p.toml", tmp_path / "alerts.csv"
    file.write_text(POLICY)
    for day, ndvi in VIEWS:
        store(dsn, "ploughed", day, ndvi, known=200 if day == 135 else day)  # comes late
    words = ("policy", "try", str(file), "--season", "2025", "--every", "1", "--json")
    rows = [json.loads(line) for line in run(*words, "--alerts", str(out)).output.splitlines()]
    turned = {row["day"]: row["turned"][0]["colour"] for row in rows if row["rule"] == "not_ploughed" and row["turned"]}
    assert turned == {"2025-05-01": "yellow", "2025-07-20": "red"}
    assert out.read_text().splitlines()[1:] == [
        "2025-05-01,not_ploughed,ploughed,yellow,2025-05-01",
        "2025-07-20,not_ploughed,ploughed,red,2025-05-01",
    ]
    # As it could have been known: on the day after the pass at the latest.
    available = [json.loads(line) for line in run(*words, "--clock", "available").output.splitlines()]
    assert [row["day"] for row in available if row["turned"]][:2] == ["2025-05-01", "2025-05-16"]
    assert lights(dsn, "not_ploughed") == {}
    assert "tried" in (shown := run("policy", "try", str(file), "--season", "2025").output)
    assert "say --clock available" not in shown


def test_a_trial_of_a_season_that_was_imported_afterwards_says_which_clock_helps(
    dsn: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "p.toml"
    file.write_text(POLICY)
    for day, ndvi in VIEWS:
        store(dsn, "ploughed", day, ndvi, known=400)
    words = ("policy", "try", str(file), "--season", "2025", "--every", "30")
    assert run(*words).output.rstrip().endswith("of a season that was imported afterwards say --clock available")
    assert "--clock" not in run(*words, "--clock", "available").output


def test_an_obligation_outside_of_the_season_is_said_to_find_nothing(dsn: str, run: Run, tmp_path: Path) -> None:
    store(dsn, "ploughed", *VIEWS[0])
    file, said = tmp_path / "p.toml", "cover is asked from 2027-08-01 to 2027-11-30, outside of season 2025 ("
    file.write_text(POLICY.replace("2025-08-01", "2027-08-01").replace("2025-11-30", "2027-11-30"))
    for words in (("try",), ("activate", "--why", "spring")):
        output = " ".join(run("policy", words[0], str(file), "--season", "2025", *words[1:]).output.split())
        assert said in output
        assert output.count("outside of season") == 1


def test_a_trial_finds_what_the_monitor_finds(dsn: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(POLICY)
    run("policy", "activate", str(file), "--season", "2025", "--why", "spring")
    for day, ndvi in VIEWS:
        for name in ("ploughed", "mown", "wheat"):
            store(dsn, name, day, ndvi if name == "ploughed" else 0.6)
        poll(dsn, day)
    words = ("policy", "try", str(file), "--season", "2025", "--every", "1", "--json")
    rows = [json.loads(line) for line in run(*words).output.splitlines()]
    said: dict[str, dict[str, Any]] = {"tried": {}, "in force": {}}
    for row in rows:
        if row["rule"] == "not_ploughed" and row["lights"]["green"] + row["lights"]["yellow"] + row["lights"]["red"]:
            said[row["policy"]][row["day"]] = row["lights"]
    assert said["tried"] == said["in force"]
    assert said["tried"]["2025-05-16"]["red"] == 1


def test_what_was_in_force_is_never_changed(dsn: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(POLICY)
    activate = ("policy", "activate", str(file), "--season", "2025", "--why", "spring", "--by", "ann")
    assert run(*activate).exit_code == 0
    file.write_text(POLICY.replace('[[obligation]]\nname = "cover"', '[[obligation]]\nname = "cover2"'))
    with pytest.raises(Exception, match="raise its version"):
        run(*activate)
    file.write_text(file.read_text().replace("version = 1", "version = 2"))
    assert run(*activate).exit_code == 0
    assert "version 2" in run("policy", "show", "--season", "2025").output
    assert "grass version 2 is in force already" in run(*activate).output
    with engine(dsn).connect() as connection:
        assert connection.execute(sa.text("select array_agg(version order by version) from policies")).scalar_one() == [
            1,
            2,
        ]
    file.write_text(POLICY)
    assert "grass version 1 is in force for" in run(*activate).output  # back to the one before
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute("update policies set version = 3")
