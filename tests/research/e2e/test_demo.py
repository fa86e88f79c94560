"""The demonstration, small: everything sent is stored, the models know more than chance, the report is there."""

import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from research.seasons import console_pictures, report
from research.seasons.demo import Servers, demonstrate
from research.seasons.demo_evidence import MOST, write_bundles
from research.seasons.demo_quality import reviewed
from research.seasons.outcome import DemoSettings, versions
from terminal.stages import Stages

# Chosen because this is the least that learns something in about a minute on a shared machine.
SETTINGS = DemoSettings(parcels=60, epochs=25, ndvi_updates=60, pixels=8, min_parcels=4)


@pytest.mark.timeout(400)
def test_a_small_demonstration(dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    said = Console(quiet=True)
    outcome = demonstrate(
        Servers(dsn, bootstrap, topic_prefix, "of the tests"), SETTINGS, Stages(said), tmp_path / "models"
    )

    counted = outcome.run.counted
    assert counted.is_complete
    assert counted.emitted == counted.sent == counted.stored == counted.in_tables > 5_000
    assert counted.dead_lettered == 0

    last = outcome.classes["network"][max(SETTINGS.scored_on)]
    n_grown = sum(any(row) for row in last.confusion)
    commonest = max(sum(row) for row in last.confusion) / last.n
    assert n_grown > 5
    assert last.accuracy > max(
        1.5 * commonest, 2 / n_grown
    )  # better than to guess, and than to name the commonest crop
    assert last.n_observed == last.n  # every monitorable parcel has a posterior
    declared = outcome.classes["declared crop"][max(SETTINGS.scored_on)]
    assert declared.accuracy > 0.9

    by_method = {one.method: one for one in outcome.curves}
    ours, peer = by_method["as known at the end"], by_method["line between clear views"]
    assert ours.n == peer.n > 5_000
    assert ours.rmse < 0.15
    assert ours.inside_95 is not None
    assert 0.7 < ours.inside_95 <= 1.0

    assert sum(outcome.lights.values()) == len(outcome.watched.parcels)
    assert len(outcome.alerts.cases) == outcome.alerts.opened.alerts
    assert {one.task for one in outcome.run.models} == {"classifier", "ndvi"}
    assert {one.trained_on["season"] for one in outcome.run.models} == {"2024"}  # nothing of the watched season

    pictures = console_pictures.taken(dsn) if any(map(shutil.which, console_pictures.BROWSERS)) else "no browser"
    page = tmp_path / "report" / "demo.html"
    report.write(outcome, versions(), 0.0, page, pictures)
    text = page.read_text()
    if not isinstance(pictures, str):
        assert text.count("data:image/webp") == len(pictures) == 18
        assert {(one.page, Image.open(BytesIO(one.webp)).size) for one in pictures} >= {
            ("inbox", (1280, 800)),
            ("map", (390, 844)),
        }
        assert len({one.webp for one in pictures}) == 18
    for section in ("watched", "scores", "crops", "examples", "alerts", "console", "made"):
        assert f'id="{section}"' in text
    assert text.count("<svg") >= 8
    assert f"{counted.stored:,}" in text

    bundles = write_bundles(dsn, outcome.run.season, tmp_path / "evidence")
    assert len(bundles) == min(outcome.alerts.opened.alerts, MOST)
    for one in bundles:
        assert "data:image/png" in one.read_text(encoding="utf-8")
        assert one.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")

    (sample,) = reviewed(dsn, outcome)["samples"]
    assert 20 <= sample["n_decided"] <= sample["n_sampled"] <= 60
    whole = sample["figures"][0]
    assert (whole["rule"], whole["region"]) == ("any rule", None)
    assert not whole["wrong_lights"]["of_parcels"]["too_few"]
