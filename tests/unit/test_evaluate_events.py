"""`evaluate events`: the form of its files, its errors, and its answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import parcelwatch
from terminal.errors import UserError
from training.errors import EventTableError
from training.event_tables import read_events, read_series

CORNERS = np.array([(60, 0.45), (130, 0.85), (160, 0.85), (164, 0.50), (190, 0.80), (300, 0.65)])
"""A meadow cut on day 162 of the year, 11 June 2023."""


def series(**changed: Any) -> pd.DataFrame:
    """Return the views of parcel 7, cut, and of parcel 8, not cut."""
    day = np.arange(60, 301, 5)
    dates = pd.Timestamp("2022-12-31") + pd.to_timedelta(day, unit="D")
    cut, still = np.interp(day, *CORNERS.T), np.interp(day, *CORNERS[[0, 1, 2, 5]].T)
    frame = pd.DataFrame({"parcel_id": np.repeat([7, 8], len(day)), "date": [*dates, *dates], "ndvi": [*cut, *still]})
    return frame.assign(sensor="S2", relative_orbit=None, vv=np.nan, vh=np.nan, **changed)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    path, events = tmp_path / "series.parquet", tmp_path / "events.csv"
    series().to_parquet(path)
    events.write_text(
        "parcel_id,date,kind\n7,2023-06-11,mowing\n7,2023-09-01,mowing\n9,2023-05-01,mowing\n8,2023-06-11,grazing\n"
    )
    return path, events


def run(*arguments: object) -> str:
    result = CliRunner().invoke(parcelwatch.app, ["evaluate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_scores_as_json(files: tuple[Path, Path]) -> None:
    found = json.loads(run("events", *files, "--kind", "mowing", "--json"))
    expected = {"kind": "mowing", "tolerance_days": 15, "precision": 1.0, "recall": 0.5, "f1": 0.6667, "events": 2}
    expected |= {"found": 1, "matched": 1, "parcels": 2, "parcel_years": 2, "events_without_series": 1}
    assert found.items() >= expected.items()
    assert found["mean_absolute_day_error"] <= 3
    assert found["baseline"]["f1"] == pytest.approx(0.6667)


def test_the_tolerance_counts(files: tuple[Path, Path]) -> None:
    path, events = files
    events.write_text("parcel,begin,end,kind\n7,2023-05-20,2023-06-01,mowing\n")
    assert json.loads(run("events", path, events, "--json", "--tolerance-days", 12))["matched"] == 1
    assert json.loads(run("events", path, events, "--json", "--tolerance-days", 5))["matched"] == 0


def test_the_table_names_every_parcel(files: tuple[Path, Path]) -> None:
    printed = run("events", *files)
    assert "2023-06-11" in printed
    assert "precision 1.00, recall 0.50, F1 0.67" in printed


def test_bands_stand_for_ndvi_and_mask_clouds(tmp_path: Path) -> None:
    frame = series()
    red = 0.05
    frame = frame.assign(B04=red, B08=red * (1 + frame["ndvi"]) / (1 - frame["ndvi"])).drop(columns="ndvi")
    frame.loc[[10, 11], "B04"] = 0.3  # cloud
    frame.loc[12, "B08"] = 0.1  # shadow
    frame.to_parquet(tmp_path / "bands.parquet")
    assert len(read_series(tmp_path / "bands.parquet").views.parcel) == int((frame["B08"] >= 0.15).sum()) - 2


def test_radar_alone_is_read_and_empty_values_are_not(tmp_path: Path) -> None:
    frame = series().drop(columns="ndvi").assign(coherence_vv=[0.3, np.nan] * 49, relative_orbit=[15, 88] * 49)
    frame.to_parquet(tmp_path / "radar.parquet")
    known = read_series(tmp_path / "radar.parquet")
    assert not len(known.views.parcel)
    assert known.radar is not None
    assert known.radar.parcel.tolist() == [0] * 25 + [1] * 24
    assert set(known.radar.orbit) == {0, 1} - {1}


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(date=frame["date"].dt.date),
        lambda frame: frame.assign(date=frame["date"].dt.tz_localize("UTC")),
        lambda frame: frame.assign(date=frame["date"].dt.strftime("%Y-%m-%d")),
        lambda frame: frame.assign(parcel_id=frame["parcel_id"].astype("float64")),
        lambda frame: frame.assign(parcel_id=frame["parcel_id"].astype("category")),
        lambda frame: frame.assign(parcel_id=frame["parcel_id"].astype(str), relative_orbit=["A15", None] * 49),
        lambda frame: frame.sample(frac=1, random_state=1).rename(columns={"parcel_id": "Parcel", "ndvi": "NDVI"}),
        lambda frame: frame.assign(ndvi=frame["ndvi"].astype("Float32")),
        lambda frame: frame[["parcel_id", "date", "ndvi"]],
    ],
)
def test_other_writers_of_the_same_table_give_the_same_scores(
    files: tuple[Path, Path], change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    path, events = files
    before = run("events", path, events, "--json")
    change(series()).to_parquet(path)
    assert run("events", path, events, "--json") == before


def test_a_single_bad_value_is_not_seen_and_many_are_another_unit(tmp_path: Path) -> None:
    path, frame = tmp_path / "series.parquet", pd.concat([series()] * 2, ignore_index=True)
    frame.loc[3, "ndvi"] = 1.4
    frame.to_parquet(path)
    assert len(read_series(path).views.parcel) == len(frame) - 1
    frame.loc[:5, "ndvi"] = 1.4
    frame.to_parquet(path)
    with pytest.raises(EventTableError, match="not an index"):
        read_series(path)


def test_a_row_of_events_may_have_a_date_or_an_interval(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("parcel_id,date,begin,end,kind\n7,2023-06-11,,,mowing\n7,,2023-08-01,2023-08-09,Mowing\n")
    found = read_events(path, "mowing")
    assert found.begin.astype(str).tolist() == ["2023-06-11", "2023-08-01"]
    assert found.end.astype(str).tolist() == ["2023-06-11", "2023-08-09"]


Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="date"), "no column date"),
        (lambda frame: frame.drop(columns=["ndvi", "vv", "vh"]), "no column ndvi"),
        (lambda frame: frame.iloc[:0], "no rows"),
        (lambda frame: frame.assign(ndvi=frame["ndvi"] * 10_000), "not an index of -1 to 1"),
        (lambda frame: frame.assign(vv=0.04), "linear power"),
        (lambda frame: frame.assign(ndvi="green"), "no number"),
        (lambda frame: frame.assign(date="soon"), "date"),
        (lambda frame: frame.assign(date=pd.NaT), "98 rows without a date"),
        (
            lambda frame: frame.assign(date=frame["date"].where(frame.index > 0, pd.Timestamp("2090-01-01"))),
            "ten years",
        ),
        (lambda frame: frame.assign(date="1970-01-01"), "give those of a season"),
        (lambda frame: frame.assign(parcel_id=None), "parcel_id is empty"),
        (lambda frame: frame.assign(NDVI=0.5), "there twice"),
    ],
)
def test_a_series_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, change: Change, message: str) -> None:
    path = tmp_path / "series.parquet"
    change(series()).to_parquet(path)
    with pytest.raises(EventTableError, match=message) as error:
        read_series(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a CSV file"),
        ("parcel_id,date,kind\n", "no rows"),
        ("parcel_id,kind\n7,mowing\n", "no column date"),
        ("parcel_id,date\n7,2023-06-11\n", "no column kind"),
        ("date,kind\n2023-06-11,mowing\n", "no column parcel_id"),
        ("parcel_id,date,kind\n7,2023-06-11,mowed\n", "row 2: unknown kind 'mowed'"),
        ("parcel_id,date,kind\n7,11/06/2023x,mowing\n", "date"),
        ("parcel_id,date,kind\n7,,mowing\n", "date"),
        ("parcel_id,begin,end,kind\n7,2023-06-11,2023-06-01,mowing\n", "row 2: ends before it begins"),
        ("parcel_id,date,kind\n ,2023-06-11,mowing\n", "parcel_id is empty"),
    ],
)
def test_events_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(EventTableError, match=message) as error:
        read_events(path, "mowing")
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path, files: tuple[Path, Path]) -> None:
    path, events = files
    with pytest.raises(EventTableError, match="no such file"):
        read_series(tmp_path / "none.parquet")
    with pytest.raises(EventTableError, match="not a Parquet file"):
        read_series(events)
    with pytest.raises(EventTableError, match="no such file"):
        read_events(tmp_path / "none.csv", "mowing")
    with pytest.raises(EventTableError, match="not a CSV file"):
        read_events(path, "mowing")
    with pytest.raises(EventTableError, match="unknown kind"):
        read_events(events, "mown")


def test_a_kind_that_no_marker_finds_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="--kind harvest: no marker finds it; one of mowing, grazing"):
        run("events", *files, "--kind", "harvest")


def test_grazing_is_scored(files: tuple[Path, Path]) -> None:
    found = json.loads(run("events", *files, "--kind", "grazing", "--json"))
    assert (found["kind"], found["events"], found["recall"]) == ("grazing", 1, 0.0)


def test_events_of_other_parcels_are_refused(files: tuple[Path, Path]) -> None:
    path, events = files
    events.write_text("parcel_id,date,kind\nA,2023-06-11,mowing\n")
    with pytest.raises(UserError, match="belong together"):
        run("events", path, events, "--json")


def test_the_jrc_form_is_converted(tmp_path: Path) -> None:
    (tmp_path / "gtdir").mkdir()
    (tmp_path / "tsdir").mkdir()
    (tmp_path / "gtdir" / "FOIinfo.csv").write_text('"","ID","Event_date"\n"0",1,"10/07/2020"\n')
    rows = {
        "s2": "2020-06-12,B04,0.03\n2020-06-12,B08,0.30\n2020-06-17,B04,0.50\n2020-06-17,B08,0.60\n",
        "s2_idx": "2020-06-12,NDVI,0.82\n2020-06-17,NDVI,0.10\n2020-06-12,BSI,0.1\n",
        "s1_coh6": "20200616T165849,s1_coh6_VV,0.3\n20200616T165849,s1_coh6_VH,0.4\n20200616T165849,s1_coh6,0.35\n",
    }
    for kind, text in rows.items():
        (tmp_path / "tsdir" / f"1_{kind}_ts.csv").write_text("date,band,MEAN\n" + text)
    run("convert", "jrc-cbm", tmp_path, tmp_path / "out")
    known = read_series(tmp_path / "out" / "series.parquet")
    assert known.views.ndvi.tolist() == pytest.approx([0.82])  # the cloud of 17 June is masked
    assert known.radar is not None
    assert (known.radar.coherence_vv[0], known.radar.coherence_vh[0]) == (0.3, 0.4)
    assert read_events(tmp_path / "out" / "events.csv", "mowing").begin.tolist() == [pd.Timestamp("2020-07-10").date()]
    (tmp_path / "tsdir" / "1_s1_coh6_ts.csv").unlink()
    run("convert", "jrc-cbm", tmp_path, tmp_path / "out")
    assert read_series(tmp_path / "out" / "series.parquet").radar is None
    (tmp_path / "tsdir" / "1_s2_ts.csv").unlink()
    (tmp_path / "tsdir" / "1_s2_idx_ts.csv").unlink()
    with pytest.raises(UserError, match="no series of parcel 1"):
        run("convert", "jrc-cbm", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="FOIinfo"):
        run("convert", "jrc-cbm", tmp_path / "none", tmp_path / "out")
