"""The baselines: what the forest may know, what it ignores, and NDVI in gaps."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from research.seasons.baselines import Observations, forest, hidden_ndvi, observations
from research.seasons.recorded import classes_of, labels_frame, open_season
from training.metrics import pooled, score_classes, score_ndvi

START = datetime(2023, 1, 1, tzinfo=UTC)
N = 40


def labelled() -> pd.DataFrame:
    """Two crops in turn, two folds."""
    crops = ["wheat" if nr % 2 else "maize" for nr in range(N)]
    return pd.DataFrame(
        {"parcel_id": [f"{nr}" for nr in range(N)], "label": crops, "fold": [nr // 2 % 2 for nr in range(N)]}
    )


def telling_from(day: int) -> Observations:
    """A season whose NDVI is noise before `day` and tells the crops apart from then on; Sentinel-1 is noise."""
    rng = np.random.default_rng(0)
    rows = [(f"{nr}", t, nr % 2) for t in range(5, 200, 10) for nr in range(N)]
    frame = pd.DataFrame(rows, columns=["parcel_id", "day", "is_wheat"])
    seen = [START + timedelta(days=t) for t in frame["day"]]
    noise = rng.normal(0, 0.01, len(frame))
    frame = frame.assign(observed_at=pd.DatetimeIndex(seen), available_at=pd.DatetimeIndex(seen))
    s2 = frame.assign(NDVI=0.5 + noise + np.where(frame["day"] >= day, 0.3 * frame["is_wheat"], 0.0))
    for name in (
        "NDVI_SD",
        "NBR2",
        "BSI",
        "S2WI",
        "B02",
        "B03",
        "B04",
        "B05",
        "B06",
        "B07",
        "B08",
        "B8A",
        "B11",
        "B12",
    ):
        s2[name] = np.nan
    s1 = frame.assign(direction="ascending", relative_orbit=15, VV=-10 + noise, VH=-20 - noise)
    return Observations(s1, s2)


def accuracy(on: date) -> float:
    labels = labelled()
    return score_classes(
        pooled(labels, forest(telling_from(100), labels, on, ("maize", "wheat")), ("maize", "wheat"))
    ).accuracy


def test_the_forest_knows_nothing_of_later_observations() -> None:
    assert accuracy(date(2023, 4, 1)) < 0.8  # day 90: only noise so far
    assert accuracy(date(2023, 5, 10)) == 1.0


def test_a_late_product_is_not_known_before_it_is_there() -> None:
    season = telling_from(0)
    late = Observations(
        *(one.assign(available_at=one["available_at"] + timedelta(days=365)) for one in (season.s1, season.s2))
    )
    assert forest(late, labelled(), date(2023, 12, 31), ("maize", "wheat")).empty


def test_a_parcel_without_observations_has_no_posterior() -> None:
    season = telling_from(0)
    seen = Observations(*(one[one["parcel_id"] != "7"] for one in (season.s1, season.s2)))
    posteriors = forest(seen, labelled(), date(2023, 3, 1), ("maize", "oats", "wheat"))
    assert "7" not in posteriors.index
    assert len(posteriors) == N - 1
    assert (posteriors["oats"] == 0).all()
    assert posteriors.sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_a_forest_of_another_season_is_used_as_it_is() -> None:
    labels = labelled()
    other = labels.assign(label=labels["label"].map({"wheat": "maize", "maize": "wheat"}))
    on = date(2023, 3, 1)
    posteriors = forest(telling_from(0), labels, on, ("maize", "wheat"), training=(telling_from(0), other, on))
    assert (
        score_classes(pooled(labels, posteriors, ("maize", "wheat"))).accuracy == 0.0
    )  # it learned them the other way round


def test_hidden_values_are_drawn_from_what_lies_outside_the_gap() -> None:
    day = [0.0, 10.0, 20.0, 30.0, 40.0]
    s2 = pd.DataFrame(
        {
            "parcel_id": "a",
            "day": day,
            "observed_at": pd.date_range(START, periods=5, freq="10D"),
            "NDVI": [0.0, 1.0, 0.5, 0.9, 0.8],
        }
    )
    near, far = hidden_ndvi(s2, 10), hidden_ndvi(s2, 30)
    assert near["NDVI"].tolist() == [1.0, 0.5, 0.9]
    assert near["linear"].tolist() == pytest.approx([0.25, 0.95, 0.65])
    assert near["last"].tolist() == [0.0, 1.0, 0.5]
    assert far["linear"].tolist() == pytest.approx([0.4])
    assert far["last"].tolist() == [0.0]


def test_no_clear_value_cannot_be_hidden() -> None:
    with pytest.raises(ValueError, match="no clear NDVI"):
        hidden_ndvi(pd.DataFrame({"parcel_id": ["a"], "day": [1.0], "observed_at": [START], "NDVI": [np.nan]}), 10)


def test_the_dutch_figures_of_the_design(data_dir: Callable[[str], Path]) -> None:
    """Section 6 of the design: forest 0.84 in mid July, linear interpolation 0.177 in gaps of 30 days."""
    season = open_season("nl", data_dir("nl-noordoostpolder-2023"))
    labels, observed = labels_frame(season), observations(season)
    classes = classes_of(labels)
    scores = score_classes(pooled(labels, forest(observed, labels, date(2023, 7, 15), classes), classes))
    assert scores.n == 427
    assert scores.macro_f1 > 0.84
    scored = observed.s2[observed.s2["parcel_id"].isin(labels["parcel_id"][labels["label"].notna()])]
    hidden = hidden_ndvi(scored, 30)
    assert score_ndvi(
        hidden["NDVI"].to_numpy(), hidden["linear"].to_numpy(), hidden["observed_at"].dt.date.tolist()
    ).rmse == (pytest.approx(0.177, abs=0.01))
