"""The benchmark of mowing on a small season."""

import json

import typer
from typer.testing import CliRunner

from research.bench.mowing import main, meadows


def test_a_small_season_is_scored_and_timed() -> None:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--parcels", "60", "--seeds", "11", "--timed", "64", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    (scores,) = found["seasons"].values()
    assert scores["events"] > 0
    assert scores["f1"] > 0.5
    assert found["mowing_optical_us"] > 0


def test_a_parcel_that_is_timed_has_the_stated_rows() -> None:
    views, radar = meadows(3, 0)
    assert (len(views.parcel), len(radar.parcel)) == (3 * 60, 3 * 120)
    assert set(radar.orbit) == {15, 37, 88, 110}
