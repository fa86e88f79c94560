"""The bench of delineation by a network: states give what a run over all dates gives, and each figure is there."""

import json

from typer.testing import CliRunner

from research.bench.delineate import app

SMALL = ["--pixels", "64", "--window", "48", "--overlap", "16", "--widths", "16,16", "--json"]


def test_states_and_tile() -> None:
    answers = [
        CliRunner().invoke(app, [command, *SMALL, "--dates", "3"], catch_exceptions=False)
        for command in ("states", "tile")
    ]
    states, tile = (json.loads(one.stdout) for one in answers)
    assert states["largest_difference"] < 1e-5
    # Four windows of 48 x 48 or less pixels; a state has 4 x 16 numbers a pixel, and those of the coarser level.
    pixels = (48 + 32) ** 2
    assert 4 * 16 * 4 * pixels < states["gb_per_1000_km2"] * 1e9 * 0.64**2 / 1000 < 2 * 4 * 16 * 4 * pixels
    assert tile["fields"] > 3
    assert 0 < tile["segmenter_share"] < 1
