"""A season without a register: fields are drawn from imagery, imported, watched, and what happened on one of them is found."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db.connect import engine
from ingest.scenes import terminal
from research.simulator import SimulatorConfig, simulate_season
from research.simulator.rasters import write_scenes

REGION, EPSG, YEAR = "lowlands", 32631, 2025
SEED = 24
"""One block in which rapeseed is lost in May and two fields are flooded in July (found by looking through 30 seeds)."""
LOST, FLOODED = "NL25-000045", "NL25-000051"
NEAR_M = 1000
RADAR_ORBITS, RADAR_MONTHS = (15, 37), (6, 7)
ANSWERS = {
    "green_stays_in_spring": {"early_loss", "grassland_ploughed", "flood"},
    "green_by_summer": {"no_emergence"},
    "flooding": {"flood"},
}
"""Events that the rules of the walk are to find."""


@dataclass(frozen=True)
class Truth:
    """What the simulator knows of the area."""

    parcels: gpd.GeoDataFrame
    """By `parcel_id`, in metres."""
    events: gpd.GeoDataFrame
    """parcel_id, kind, day, until."""

    def below(self, outline: Any) -> tuple[str, float]:
        """Return the parcel that a drawn field covers most of, and the IoU of both."""
        shared = self.parcels.intersection(outline).area
        name = str(shared.idxmax())
        return name, float(shared[name] / (outline.area + self.parcels.area[name] - shared[name]))


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    """Write `scenes`: every third Sentinel-2 product over an area, and summer's Sentinel-1 of two orbits."""
    season = simulate_season(
        SimulatorConfig(
            year=YEAR,
            seed=SEED,
            n_parcels=60,
            regions=(REGION,),
            event_rate=2.0,
            starts_on=date(YEAR, 1, 1),
            ends_on=date(YEAR, 9, 30),
        )
    )
    parcels = season.parcels.to_crs(EPSG).set_index("parcel_id")
    middle = parcels.centroid
    near = parcels.index[middle.distance(middle[LOST]) < NEAR_M]
    there = [one for one in season.products if not one.is_lost and not one.is_withdrawn and one.revision == 0]
    optical = [one for one in there if one.sensor == "s2"][::3]
    radar = [one for one in there if one.relative_orbit in RADAR_ORBITS and one.observed_at.month in RADAR_MONTHS]
    write_scenes(season, near.tolist(), tmp_path / "scenes", [one.scene_id for one in optical + radar])
    events = season.truth.events
    return Truth(parcels, events[events["parcel_id"].isin(near)])


@pytest.fixture
def servers(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"DSN": dsn, "BOOTSTRAP": bootstrap, "INGEST_TOPIC_PREFIX": topic_prefix}
    for name, value in {**settings, "SCENES_INDEX_FOLDER": tmp_path / "index"}.items():
        monkeypatch.setenv(f"PARCELWATCH_{name}", str(value))
    monkeypatch.setattr(terminal, "stop_on_signals", threading.Event)  # pytest keeps its own
    monkeypatch.chdir(tmp_path)


def run(command: str) -> str:
    """Return what a command prints, as it is typed."""
    done = CliRunner().invoke(parcelwatch.app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(f"{command} --json").splitlines()]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("servers")
def test_a_season_without_a_register(truth: Truth, dsn: str) -> None:
    run("delineate scenes --out fields.parquet")
    report = json.loads(run("parcels import fields.parquet --collection drawn --season 2025 --json"))
    assert report["found"]["undeclared"] == report["found"]["parcels"] == report["changed"]["new"]
    assert "policy example --undeclared" in report["remarks"][0]
    n_scenes = len(list(Path("scenes").iterdir()))
    assert f"{n_scenes} new" in run("scenes add scenes")
    assert f"scenes: {n_scenes} cut" in run("scenes work --until-idle")
    run("ingest run --until-end")

    Path("season.toml").write_text(run("policy example --undeclared"), encoding="utf-8")
    season = "--season 2025 --collection drawn"
    run("models activate whittaker " + season)
    run(f"policy activate season.toml {season} --why demonstration")
    run("monitor once")

    drawn = gpd.read_parquet("fields.parquet").set_index("id").geometry
    alerts = [one for one in rows(f"alerts {season}") if one["rule"] in ANSWERS]
    named = {}
    for one in alerts:  # each is of something that happened, on that field, shortly before its first clear view
        name, iou = truth.below(drawn[one["source_id"]])
        happened = truth.events[(truth.events["parcel_id"] == name) & truth.events["kind"].isin(ANSWERS[one["rule"]])]
        (day,) = happened["day"].dt.date
        assert iou > 0.5
        assert day <= date.fromisoformat(one["departed_on"]) <= day + timedelta(21)
        named[one["rule"], name] = one["source_id"]
    assert {("green_stays_in_spring", LOST), ("flooding", FLOODED)} <= set(named)
    check_inspection(dsn, named["green_stays_in_spring", LOST])


def check_inspection(dsn: str, lost: str) -> None:
    """The alert is found by an inspector: in the view, by its number, in the evidence; what cannot be asked says why."""
    with engine(dsn).connect() as connection:
        found = sa.text(
            "select alert_key, declared_crop from parcelwatch.alerts where source_id = :lost and collection = 'drawn'"
        )
        ((key, declared),) = connection.execute(found, {"lost": lost}).all()
        unasked = sa.text(
            "select rule, evidence ->> 'reason' from findings join parcels using (parcel_key) where source_id = :lost "
            "and outcome = 'NOT_EXECUTED'"
        )
        reasons = dict[str, str](tuple(row) for row in connection.execute(unasked, {"lost": lost}))
    assert declared is None
    assert reasons == dict.fromkeys(("crop_mismatch", "no_emergence", "early_loss"), "nothing is declared")
    assert "bare soil (NDVI below 0.3)" in run(f"alerts show {key}")
    run(f"alerts show {key} --bundle alert.json")
    document = json.loads(Path("alert.json").read_text(encoding="utf-8"))
    assert (document["alert"]["parcel"], document["alert"]["declared_crop"]) == (lost, None)
