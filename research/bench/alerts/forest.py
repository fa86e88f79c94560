"""A random forest as a peer: which kind of event a parcel has had, from the series of both sensors and of its neighbours.

    x(p, t) = for each of the last 12 periods of ten days: NDVI, VV, VH (mean of what became known; radar less its orbit's mean in
              the season that taught it), and each less the median of the parcels of the same region and declared crop;
              the declared crop, the region and the period
    y(p, t) = the kind of event that had happened on the parcel by the period's end, or none

Taught by the season of another seed, every period a row; its thresholds are chosen on the halves of the fields that did not teach it.
So it knows what the rules know: neighbours, declaration, both sensors; and beyond that examples of every kind of event.
Shapes: P parcels, T periods, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from monitor.alerts.neighbours import Days, Ints
from research.bench.alerts.figures import ANSWERABLE
from research.bench.alerts.known import Rows, Series
from research.bench.alerts.peers import KINDS, Process
from research.experiments.forest import Floats
from research.seasons.baselines import PERIOD_D, UNSEEN
from research.simulator import Season
from research.simulator.crops import CROPS
from research.simulator.regions import REGIONS
from training.metrics import Event

PERIODS: Final = 12
"""Four months: from a winter crop's sowing to its spring, or a spring crop's whole growth."""
N_TREES: Final = 200
NOTHING_KEPT: Final = 0.2
"""Share of the rows without an event that are taught; thresholds make up for it."""
Level = Mapping[tuple[str, int], NDArray[np.float64]]
"""Mean VV and VH by region and orbit."""


@dataclass(frozen=True)
class Sample:
    """The features of a season."""

    x: NDArray[np.float32]
    """(P, T, F)"""
    days: Days
    """(T,) the last day of each period."""


def levels(season: Season, series: Series) -> Level:
    """Return the mean of each region's orbits: their incidence."""
    region, rows = season.parcels["region"].to_numpy(str)[series.radar.parcel], series.radar
    frame = pd.DataFrame({"region": region, "orbit": rows.orbit, "vv": rows.values[:, 0], "vh": rows.values[:, 1]})
    means = frame.groupby(["region", "orbit"], as_index=False)[["vv", "vh"]].mean()
    return {(str(one.region), int(str(one.orbit))): np.array([one.vv, one.vh]) for one in means.itertuples()}


def sample(season: Season, series: Series, level: Level) -> Sample:
    """Return the features of all parcels at the end of every period."""
    first = np.datetime64(season.starts_on)
    n = int((np.datetime64(season.ends_on) - first).astype(int)) // PERIOD_D + 1
    region = season.parcels["region"].to_numpy(str)
    group = pd.factorize(pd.Series(region) + season.parcels["crop_code"].astype(str))[0]
    radar = series.radar
    own = np.array([level.get(key, (0.0, 0.0)) for key in zip(region[radar.parcel], radar.orbit.tolist(), strict=True)])
    db = radar.values - own.reshape(-1, 2)
    values = [
        _binned(series.optical, series.optical.values[:, 0], series.n_parcels, n, first),
        *(_binned(radar, db[:, nr], series.n_parcels, n, first) for nr in range(2)),
    ]
    values += [one - pd.DataFrame(one).groupby(group).transform("median").to_numpy() for one in list(values)]
    stack = np.stack(values, axis=-1)  # (P, T, 6)
    padded = np.concatenate([np.full((len(stack), PERIODS - 1, stack.shape[2]), np.nan), stack], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, PERIODS, axis=1)  # (P, T, 6, PERIODS)
    crops, regions = [one.name for one in CROPS], list(REGIONS)
    told = [(season.parcels["crop_name"].to_numpy() == name) for name in crops] + [region == one for one in regions]
    fixed = np.broadcast_to(np.stack(told, -1)[:, None], (len(stack), n, len(told)))
    period = np.broadcast_to(np.arange(n)[None, :, None], (len(stack), n, 1))
    x = np.concatenate([windows.reshape(len(stack), n, -1), fixed, period], axis=2).astype(np.float32)
    return Sample(np.nan_to_num(x, nan=UNSEEN), first + np.arange(1, n + 1) * PERIOD_D - 1)


def _binned(rows: Rows, value: Floats, n_parcels: int, n: int, first: np.datetime64) -> Floats:
    """Return (P, T) means of what became known in each period."""
    period = (rows.known_from - first).astype(int) // PERIOD_D
    cell = rows.parcel * n + np.minimum(period, n - 1)
    count, total = np.bincount(cell, minlength=n_parcels * n), np.bincount(cell, value, minlength=n_parcels * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan).reshape(n_parcels, n)


def labels(ids: Sequence[str], events: Sequence[Event], days: Days) -> Ints:
    """Return (P, T) what had happened by each day: 0, or 1 and more for the sorted kinds."""
    place, kinds = {one: nr for nr, one in enumerate(ids)}, sorted(ANSWERABLE)
    y = np.zeros((len(ids), len(days)), np.int64)
    for event in sorted(events, key=lambda one: one.happened_on, reverse=True):  # of two the earlier one
        y[place[event.parcel_id], days >= np.datetime64(event.happened_on)] = 1 + kinds.index(event.kind)
    return y


def fit(of: Sample, y: Ints, rows: NDArray[np.bool_], seed: int = 0) -> RandomForestClassifier:
    """Return a forest of some parcels (P,)."""
    kept = rows[:, None] & ((y > 0) | (np.random.default_rng(seed).random(y.shape) < NOTHING_KEPT))
    return RandomForestClassifier(N_TREES, min_samples_leaf=3, random_state=seed, n_jobs=1).fit(of.x[kept], y[kept])


def processes(forest: Any, of: Sample, rows: NDArray[np.bool_]) -> dict[str, Process]:
    """Return the score of some parcels (P,), NaN of the others: the probability of the kinds that are asked."""
    kinds, found = sorted(ANSWERABLE), forest.predict_proba(of.x[rows].reshape(-1, of.x.shape[2]))
    asked = {}
    for name, wanted in KINDS.items():
        columns = [nr for nr, label in enumerate(forest.classes_) if label > 0 and kinds[label - 1] in wanted]
        score = np.full(of.x.shape[:2], np.nan)
        score[rows] = found[:, columns].sum(axis=1).reshape(-1, of.x.shape[1])
        asked[name] = Process(of.days, score)
    return asked


def held_out(of: Sample, y: Ints, half: NDArray[np.bool_]) -> dict[str, Process]:
    """Return the scores of each half of the parcels (P,) by a forest that the other half taught."""
    one, other = (processes(fit(of, y, ~rows), of, rows) for rows in (half, ~half))
    return {name: Process(of.days, np.fmax(one[name].score, other[name].score)) for name in KINDS}
