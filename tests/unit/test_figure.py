"""The figure of a parcel's season: its axis, its frames, and names that are no formulas."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.dates import date2num

from db.history import HistoryRow
from monitor.inspection.figure import EMPTY, Setting, save, season_figure, short
from monitor.inspection.history_command import file_name

START = datetime(2025, 3, 1, tzinfo=UTC)
LONG_AFTER = datetime(2026, 11, 28, tzinfo=UTC)
SEASON = Setting((date(2025, 1, 1), date(2025, 12, 31)))
HOSTILE = ["wheat $x_{$", "$\\frac{$", "_hidden", "[/red]\x1b[2J", "小麦", "a" * 5000, "two\nlines", "many" + "\n" * 80]


def row(kind: str, day: int, **values: Any) -> HistoryRow:
    at = START + timedelta(days=day)
    nothing: dict[str, Any] = dict.fromkeys(
        ("relative_orbit", "ndvi", "ndvi_sd", "origin", "vv_db", "vh_db", "crop", "probability")
    )
    return HistoryRow(**nothing | {"at": at, "kind": kind, "recorded_at": at, "detail": {}} | values)


def posteriors(classes: list[str], n: int = 4) -> list[HistoryRow]:
    share = 1 / len(classes)
    detail = {"classes": classes, "probabilities": [share] * len(classes)}
    return [
        one
        for nr in range(n)
        for one in (
            row("posterior", 10 * nr, crop=classes[0], probability=share, detail=detail),
            row("s2", 10 * nr, ndvi=0.5),
        )
    ]


def alert(event: str, evidence: dict[str, Any], at: datetime = LONG_AFTER) -> HistoryRow:
    detail = {"rule": "crop_mismatch", "event": event, "colour": "red"} | evidence
    return row("alert", 0, at=at, detail=detail)


def test_the_axis_is_the_season_whenever_an_alert_was_opened() -> None:
    rows = [
        row("s2", 5, ndvi=0.5),
        alert("opened", {"observed_to": "2025-06-01"}),
        alert("confirmed", {"reason": "none"}),
    ]
    axes = season_figure(rows, "p", SEASON).axes
    assert axes[0].get_xlim() == pytest.approx((date2num(date(2025, 1, 1)), date2num(date(2025, 12, 31))))  # type: ignore[no-untyped-call]
    labels = {text.get_text(): text.xy[0] for text in axes[0].texts if hasattr(text, "xy")}
    assert labels["crop_mismatch opened"] == date2num(date(2025, 6, 1))  # type: ignore[no-untyped-call]
    assert labels["crop_mismatch confirmed"] == date2num(date(2025, 12, 31))  # type: ignore[no-untyped-call]


def test_events_of_one_day_share_a_label() -> None:
    events = [alert(event, {"observed_to": "2025-06-01"}) for event in ("opened", "confirmed", "dismissed")]
    (label,) = season_figure([row("s2", 5, ndvi=0.5), *events], "p", SEASON).axes[0].texts
    assert label.get_text() == "crop_mismatch opened, confirmed"


def test_empty_frames_say_why() -> None:
    axes = season_figure([row("s2", 5, ndvi=0.5)], "p", Setting(empty={"posterior": "no classifier is active"})).axes
    assert [[text.get_text() for text in axis.texts] for axis in axes] == [
        [],
        [EMPTY["backscatter"]],
        ["no classifier is active"],
    ]


def test_the_declared_crop_is_drawn_and_named_even_where_it_is_unlikely() -> None:
    classes = [f"crop {nr}" for nr in range(9)]
    probabilities = [0.2, 0.19, 0.18, 0.17, 0.16, 0.05, 0.03, 0.02, 0.0]
    rows = [row("declaration", -30, crop="crop 8", detail={"crop_code": "8"})]
    rows += [row("s2", 1), row("posterior", 1, detail={"classes": classes, "probabilities": probabilities})]
    legend = season_figure(rows, "p", SEASON).axes[2].get_legend()
    assert legend is not None
    assert [text.get_text().strip() for text in legend.get_texts()] == [*classes[:5], "crop 8 (declared)"]


def test_a_declared_crop_that_the_model_does_not_know_is_said_to_be_one() -> None:
    rows = [row("declaration", -30, crop="flax", detail={"crop_code": "1"}), *posteriors(["a", "b"])]
    legend = season_figure(rows, "p", SEASON).axes[2].get_legend()
    assert legend is not None
    assert "flax (declared):\n not a crop of this model" in [text.get_text().strip() for text in legend.get_texts()]


def test_views_of_water_lie_within_the_axis() -> None:
    axis = season_figure([row("s2", 1, ndvi=0.5), row("s2", 5, ndvi=-0.31)], "p", SEASON).axes[0]
    assert axis.get_ylim() == pytest.approx((-0.36, 1.0))
    assert season_figure([row("s2", 5, ndvi=0.5)], "p", SEASON).axes[0].get_ylim() == pytest.approx((-0.1, 1.0))


def test_of_posteriors_of_one_acquisition_the_newest_counts() -> None:
    (first, view), again = posteriors(["a", "b"], 1), posteriors(["a", "b"], 1)[0]
    newer = HistoryRow(
        **again.__dict__ | {"recorded_at": LONG_AFTER, "detail": {"classes": ["a", "b"], "probabilities": [0.9, 0.1]}}
    )
    line = season_figure([newer, first, view], "p", SEASON).axes[2].lines[0]
    assert list(line.get_ydata()) == [0.9]  # type: ignore[arg-type]


def test_the_posterior_of_a_withdrawn_acquisition_is_not_in_the_course() -> None:
    rows = posteriors(["a", "b"], 3)
    rows.remove(next(one for one in rows if one.kind == "s2"))
    line = season_figure(rows, "p", SEASON).axes[2].lines[0]
    assert len(list(line.get_xdata())) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    rows = [
        row("s2", 5, ndvi=0.5),
        row("s1", 6, relative_orbit=8, vv_db=-10.0, vh_db=-17.0),
        *posteriors([name, "other"]),
        row("declaration", 0, crop=name, detail={"crop_code": name}),
        alert("opened", {"reason": name}),
    ]
    save(rows, f"collection {name}, season $2025$", tmp_path / "p.png", replace(SEASON, subtitle=f"declared: {name}"))
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "p.png").stat().st_size < 500_000


def test_names_are_shortened_and_nothing_invisible_is_left() -> None:
    assert len(short("x" * 1000)) == 32
    assert len(short("麦" * 1000)) == 16
    assert short("a\x1b[2J\u202e") == "a\ufffd"


@pytest.mark.parametrize("parcel", ["10984", "NL25-000010", "a.b_c", "Æ-1"])
def test_a_parcels_figure_is_named_after_it(parcel: str) -> None:
    assert file_name(parcel) == parcel


@pytest.mark.parametrize(
    "parcel",
    ["../../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "x" * 300, "é" * 200, "a\nb", "a b", "-/-"],
)
def test_a_figure_stays_in_its_folder(parcel: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file_name(parcel)}.png"
    assert path.parent.resolve() == path.resolve().parent == tmp_path.resolve()
    path.touch()


def test_two_parcels_never_share_a_figure() -> None:
    ids = ["a/b", "a_b", "a b", "a//b", "x" * 100, "x" * 101, "a/../b"]
    assert len({file_name(one) for one in ids}) == len(ids)


@given(st.text(max_size=120) | st.text(st.sampled_from("./\\ aé\0"), max_size=120))
def test_a_files_name_is_one_step_of_a_path(parcel: str) -> None:
    name = f"{file_name(parcel)}.png"
    assert Path(name).name == name
    assert name[:1] != "."
    assert len(name.encode()) <= 255


def test_the_history_command_loads_neither_torch_nor_matplotlib_before_it_needs_them() -> None:
    code = "import sys, parcelwatch; parcelwatch.load('history'); sys.exit(str({'torch', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "set()"
