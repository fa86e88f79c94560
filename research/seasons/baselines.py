"""The baselines that a replayed season is scored beside: a random forest for crops, straight lines and last values for NDVI.

    forest   per ten days of the season so far: means of VV, VH and VV - VH in dB (per direction, each orbit less its
             mean over the training parcels) and of NDVI, the other indices and the bands; 300 trees
    linear   NDVI between the clear values on either side (needs the future); last: the clear value before (does not)

A forest "as known on" a date is trained and applied with what was available by the end of that date only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from db.sensors import S2_BANDS
from research.seasons.replay_source import ReplaySource, known_by

Floats = NDArray[np.float64]

PERIOD_D = (
    10  # chosen because it scored best on the Dutch season (0.02 to 0.05 above 15 days): a baseline is to be strong
)
N_TREES = 300  # chosen because more change the scores by less than the seed does
UNSEEN = -999.0  # chosen because no feature comes near it: trees split "nothing seen" off
S2_VALUES = ("NDVI", "NDVI_SD", "NBR2", "BSI", "S2WI", *S2_BANDS)
GAPS_D = (10, 20, 30, 60, 90)  # the gaps of the table in the project's log


@dataclass(frozen=True)
class Observations:
    """All observations of a season: parcel_id, available_at, day (since the season's start) and values, a row each."""

    s1: pd.DataFrame
    """+ direction, relative_orbit, VV, VH in dB."""
    s2: pd.DataFrame
    """+ observed_at, NDVI, the other indices and bands; NaN where the source has none."""


def observations(season: ReplaySource) -> Observations:
    """Return the observations of a season as frames, in order of availability."""
    return Observations(
        _frame(season, "S1", ("direction", "relative_orbit", "VV", "VH")), _frame(season, "S2", S2_VALUES)
    )


def forest(
    observed: Observations,
    labels: pd.DataFrame,
    on: date,
    classes: Sequence[str],
    *,
    training: tuple[Observations, pd.DataFrame, date] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return posteriors of the random forest as known on a date: index parcel_id, a column per class.

    Args:
        observed: the season to predict.
        labels: parcel_id, label (None: not scored), fold; each fold is predicted by a forest that saw the others.
        on: the date.
        classes: the columns wanted.
        training: another season's observations, labels and the date in it, to train one forest on; None: blocked folds.

    Returns:
        A row per labelled parcel of which anything was known; the others have none.
    """
    asked = labels[labels["label"].notna()]
    if training is not None:
        past, past_labels, past_on = training
        taught = past_labels[past_labels["label"].notna()]
        return _fit_predict(_known(past, past_on), taught, _known(observed, on), asked, classes, seed)
    known = _known(observed, on)
    folds = [
        _fit_predict(known, asked[asked["fold"] != fold], known, asked[asked["fold"] == fold], classes, seed)
        for fold in sorted(asked["fold"].unique())
    ]
    return pd.concat(folds)


def hidden_ndvi(s2: pd.DataFrame, gap_d: int) -> pd.DataFrame:
    """Return NDVI baselines inside gaps: each clear value in turn hidden with all others nearer than half the gap.

    Args:
        s2: parcel_id, day, observed_at, NDVI.
        gap_d: the gap in days.

    Returns:
        parcel_id, observed_at, NDVI (hidden), linear, last; values with nothing left before or after are not asked.
    """
    asked = []
    for parcel, rows in s2.dropna(subset=["NDVI"]).sort_values("day").groupby("parcel_id"):
        day, value = rows["day"].to_numpy(np.float64), rows["NDVI"].to_numpy(np.float64)
        before = np.searchsorted(day, day - gap_d / 2, side="left") - 1  # the last value that is not hidden
        after = np.searchsorted(day, day + gap_d / 2, side="right")
        both = (before >= 0) & (after < len(day))
        b, a = before[both], after[both]
        linear = value[b] + (value[a] - value[b]) * (day[both] - day[b]) / (day[a] - day[b])
        asked.append(
            pd.DataFrame(
                {
                    "parcel_id": parcel,
                    "observed_at": rows["observed_at"].to_numpy()[both],
                    "NDVI": value[both],
                    "linear": linear,
                    "last": value[b],
                }
            )
        )
    if not asked:
        raise ValueError("no clear NDVI to hide; give a season with Sentinel-2 observations")
    return pd.concat(asked, ignore_index=True)


def _frame(season: ReplaySource, sensor: str, values: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one sensor that were not withdrawn, S1 in dB."""
    names = ["parcel_id", "observed_at", "available_at", "is_withdrawn", *values]
    tables = [
        one.table.select(names) for one in season.acquisitions() if one.sensor.upper() == sensor and one.table.num_rows
    ]
    if not tables:
        return pd.DataFrame(columns=[*names, "day"])
    frame = cast(pd.DataFrame, pa.concat_tables(tables).to_pandas())
    frame = frame[~frame["is_withdrawn"]].copy()
    start = pd.Timestamp(datetime.combine(season.starts_on, time(), UTC))
    frame["day"] = (frame["observed_at"] - start).dt.total_seconds() / 86_400
    for name in {"VV", "VH"} & set(values):
        frame[name] = 10 * np.log10(frame[name].astype(np.float64))
    return frame


def _known(observed: Observations, on: date) -> Observations:
    """Return what was available by the end of a date."""
    limit = pd.Timestamp(known_by(on))
    return Observations(*(one[one["available_at"] < limit] for one in (observed.s1, observed.s2)))


def _fit_predict(
    past: Observations,
    taught: pd.DataFrame,
    observed: Observations,
    asked: pd.DataFrame,
    classes: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """Return posteriors of `asked` by a forest trained on `taught`."""
    orbit_mean = _orbit_means(past.s1, taught["parcel_id"])
    train = _features(past, taught["parcel_id"], orbit_mean)
    test = _features(observed, asked["parcel_id"], orbit_mean)
    if train.empty or test.empty:
        return pd.DataFrame(columns=list(classes))
    label = taught.set_index("parcel_id")["label"]
    model = RandomForestClassifier(N_TREES, random_state=seed, n_jobs=1)
    model.fit(train.fillna(UNSEEN).to_numpy(), label.loc[train.index].to_numpy(str))
    probabilities = model.predict_proba(test.reindex(columns=train.columns).fillna(UNSEEN).to_numpy())
    known = pd.DataFrame(probabilities, index=test.index, columns=model.classes_)
    return known.reindex(columns=list(classes), fill_value=0.0)


def _orbit_means(s1: pd.DataFrame, parcels: pd.Series) -> pd.DataFrame:
    """Return mean VV and VH in dB of each direction and relative orbit over the training parcels: its incidence effect."""
    return s1[s1["parcel_id"].isin(parcels)].groupby(["direction", "relative_orbit"])[["VV", "VH"]].mean()


def _features(observed: Observations, parcels: pd.Series, orbit_mean: pd.DataFrame) -> pd.DataFrame:
    """Return means per ten days, a row per parcel of which anything was known, a column per quantity and period."""
    s1 = observed.s1[observed.s1["parcel_id"].isin(parcels)]
    s2 = observed.s2[observed.s2["parcel_id"].isin(parcels)]
    level = orbit_mean.reindex(pd.MultiIndex.from_frame(s1[["direction", "relative_orbit"]])).fillna(0.0)
    s1 = s1.assign(VV=s1["VV"] - level["VV"].to_numpy(), VH=s1["VH"] - level["VH"].to_numpy())
    s1 = s1.assign(ratio=s1["VV"] - s1["VH"])
    parts = [
        _period_means(s1[s1["direction"] == direction], ("VV", "VH", "ratio"), str(direction))
        for direction in sorted(s1["direction"].unique())
    ]
    parts.append(_period_means(s2, S2_VALUES, "s2"))
    return pd.concat(parts, axis=1)


def _period_means(rows: pd.DataFrame, values: Sequence[str], prefix: str) -> pd.DataFrame:
    period = (rows["day"] // PERIOD_D).astype(int)
    means = rows.assign(period=period).pivot_table(index="parcel_id", columns="period", values=list(values))
    means.columns = pd.Index([f"{prefix} {column}" for column in means.columns.to_flat_index()])
    return means.dropna(axis=1, how="all")
