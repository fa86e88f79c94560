"""A table of one's own: packed as it is written, whatever its order; what it must not hold ends in one line."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from terminal.errors import UserError
from training.config import parse
from training.labelled import NO_LABEL
from training.observation_table import TableError, checked
from training.sources import open_source
from training.table_source import TableOptions

N, DATES = 30, pd.date_range("2024-03-01", periods=6, freq="20D")
OPTIONS = TableOptions(min_parcels=5)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Thirty parcels of two crops and six dates, both sensors in each row."""
    random = np.random.default_rng(0)
    one = pd.DataFrame([(f"p{parcel:02}", day) for parcel in range(N) for day in DATES], columns=["parcel_id", "date"])
    number = one["parcel_id"].str[1:].astype(int)
    return one.assign(
        label=np.where(number % 2, "wheat", "maize"),
        B04=0.1 + 0.05 * (number % 2),
        B08=0.4 + random.normal(0, 0.01, len(one)),
        VV=-12.0 + random.normal(0, 1, len(one)),
        VH=-18.0 + random.normal(0, 1, len(one)),
        x=number * 1000.0,
        y=0.0,
    )


def test_values_days_and_labels_are_those_of_the_rows(frame: pd.DataFrame) -> None:
    data = OPTIONS.labelled(frame)
    assert (data.classes, data.starts_on) == (("maize", "wheat"), date(2024, 1, 1))
    assert data.parcel_ids is not None
    assert data.parcel_ids.tolist() == [f"p{one:02}" for one in range(N)]
    assert data.labels.tolist() == [one % 2 for one in range(N)]
    s2, s1 = data.observations["s2"], data.observations["s1"]
    assert s2.pixels[:, :, 0] == pytest.approx(frame[["B04", "B08"]].to_numpy())
    assert s1.pixels[:, 2, 0] == pytest.approx((frame["VV"] - frame["VH"]).to_numpy(), abs=1e-5)
    assert s2.day[:6].tolist() == [60 + 20 * nr for nr in range(6)]
    assert set(data.fold.tolist()) == {1, 2, 3, 4, 5}
    assert [len(set(data.fold[data.block == one])) for one in np.unique(data.block)] == [1] * len(np.unique(data.block))


def test_order_time_zones_and_kinds_of_dates_change_nothing(frame: pd.DataFrame) -> None:
    plain = OPTIONS.labelled(frame)
    for other in (
        frame.iloc[::-1],
        frame.sample(frac=1.0, random_state=1),
        frame.assign(date=frame["date"].dt.strftime("%Y-%m-%d")),
        frame.assign(date=frame["date"].dt.date),
        frame.assign(date=frame["date"].dt.tz_localize("UTC")),
        frame.rename(columns={"date": "observed_at"}),
        frame.set_index("date"),
    ):
        found = OPTIONS.labelled(other)
        for name, one in plain.observations.items():
            np.testing.assert_array_equal(found.observations[name].pixels, one.pixels)
            np.testing.assert_array_equal(found.observations[name].day, one.day)
        np.testing.assert_array_equal(found.fold, plain.fold)


def test_linear_power_is_the_same_as_its_decibel(frame: pd.DataFrame) -> None:
    power = frame.assign(VV=10 ** (frame["VV"] / 10), VH=10 ** (frame["VH"] / 10))
    found = TableOptions(min_parcels=5, units="linear").labelled(power).observations["s1"]
    np.testing.assert_allclose(found.pixels, OPTIONS.labelled(frame).observations["s1"].pixels, atol=1e-4)


def test_directions_are_modalities_and_missing_values_no_observations(frame: pd.DataFrame) -> None:
    frame = frame.assign(direction=np.where(frame["date"].dt.month % 2, "ascending", "descending"), relative_orbit=37)
    frame.loc[frame["date"] == DATES[0], ["B04", "B08"]] = np.nan
    data = OPTIONS.labelled(frame)
    assert set(data.observations) == {"s2", "s1a", "s1d"}
    assert len(data.observations["s2"].day) == N * (len(DATES) - 1)
    assert set(data.observations["s1a"].orbit.tolist()) == {37}


def test_rare_and_unknown_labels_are_left_out(frame: pd.DataFrame) -> None:
    frame.loc[frame["parcel_id"] == "p00", "label"] = None
    frame.loc[frame["parcel_id"] == "p01", "label"] = "hemp"
    data = OPTIONS.labelled(frame)
    assert data.labels[:2].tolist() == [NO_LABEL, NO_LABEL]
    assert data.classes == ("maize", "wheat")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.drop(columns="parcel_id"), "no column parcel_id; it has date, label"),
        (lambda one: one.drop(columns="date"), "no column date"),
        (lambda one: one.drop(columns="label"), "no column label"),
        (lambda one: one.drop(columns=["B04", "B08", "VV", "VH"]), "no column of a sensor"),
        (lambda one: one.drop(columns="VH"), "VV without the other polarisation"),
        (lambda one: one.assign(B04=one["B04"] * 10_000), "B04 lies between 1000 and 1500, .* multiply .* by 0.0001"),
        (lambda one: one.assign(VV=10 ** (one["VV"] / 10)), 'VV lies between .*, as linear power does; .* "linear"'),
        (lambda one: one.assign(VV=one["VV"] * 100), "VV lies between -1.* beyond -60..30"),
        (lambda one: one.assign(B08="high"), "column B08: .*numbers are needed"),
        (lambda one: one.assign(date=20240301), "numbers .*, not dates"),
        (lambda one: one.assign(date="soon"), "no dates"),
        (lambda one: one.assign(date=pd.NaT), "180 rows without a date"),
        (lambda one: one.assign(label=one["date"].astype(str)), "parcel p00 has the labels .*; one is needed"),
        (lambda one: one.assign(label="wheat"), "1 labels with at least 5 parcels, two are needed; it has wheat 30"),
        (lambda one: one.assign(x=5.0, y=52.0), "x lies between 5 and 5; metres are needed; degrees are lon, lat"),
        (lambda one: one.assign(fold=7), "fold holds other values than 1 to 5"),
        (lambda one: one.assign(direction="up"), "direction up; ascending, descending"),
        (lambda one: one.assign(relative_orbit=-1), "relative_orbit from -1"),
        (lambda one: one.assign(B04=np.nan, B08=np.nan, VV=np.nan, VH=np.nan), "every value of .* is missing"),
        (lambda one: one.iloc[:0], "no rows"),
        (lambda one: one.assign(parcel_id=None), "parcel_id is empty in 180 rows"),
    ],
)
def test_what_a_table_must_not_hold_is_reported_in_one_line(
    frame: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    with pytest.raises(UserError, match=f"^own: ?.*{reason}|^own, .*{reason}") as caught:
        OPTIONS.labelled(change(frame), "own")
    assert "\n" not in str(caught.value)


def test_decibel_stated_as_linear_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(TableError, match=r'linear power is never negative: state units = "dB"'):
        checked(frame, "linear")


def test_a_file_is_opened_by_its_kind(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "own.parquet")
    given = {"kind": "table", "path": str(tmp_path / "own.parquet"), "min_parcels": 5, "scored_on": ["2024-05-01"]}
    data = open_source(parse({"data": given, "run": {"folder": "x"}}, "run.toml").data)
    assert (data.name, data.scored_on, data.day_names) == ("own", (122.0,), ("1 May",))


@pytest.mark.parametrize("content", [None, b"", b"parcel_id,date\n"])
def test_a_file_that_is_no_table_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=r"own.parquet: (no such file|not a Parquet file)") as caught:
        open_source(parse({"data": {"kind": "table", "path": str(path)}, "run": {"folder": "x"}}, "").data)
    assert "\n" not in str(caught.value)
