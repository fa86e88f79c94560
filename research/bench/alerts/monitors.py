"""The monitors of `nrt` as peers: EWMA, CuSum and MoSum of each field's NDVI less the median of its neighbours.

    r(d) = NDVI of a clear view on day d - median of the parcels of the same region and declared crop on that day
    history     r of the same field in the season before, whose crop was another: its mean and spread
    monitoring  r from the first day of the season; score = |process| / boundary at significance 0.05

Chosen because it is the form in which they find most: fields rotate, so that no field has a history of its crop; a harmonic fit of last
season's crop would take every warm spring for a break; and the median of the neighbours is what the rules know too. The least squares of
all of the history, no outlier screening in monitoring (a crop that fails is ten of its deviations away), fields whose history `nrt` calls
unstable monitored all the same. Lambda of EWMA and h of MoSum are chosen with the threshold, on the season of another seed.
Source: Verbesselt et al. 2012 (CuSum, MoSum), Brooks et al. 2014 (EWMA), as `nrt` 0.3 implements them.
Shapes: P parcels, T days.
"""

import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
import xarray
from nrt.monitor.cusum import CuSum
from nrt.monitor.ewma import EWMA
from nrt.monitor.mosum import MoSum

from monitor.alerts.neighbours import Days, Ints
from monitor.alerts.settings import RuleSettings
from research.bench.alerts.known import Series
from research.bench.alerts.peers import Process
from research.bench.alerts.watch import at_its_end, farmed, group_of
from research.experiments.forest import Floats
from research.simulator import Season

PLAIN: Final[Mapping[str, Any]] = {"trend": False, "harmonic_order": 0, "update_mask": False}
MONITORS: Final[Mapping[str, tuple[type, tuple[Mapping[str, Any], ...]]]] = {
    "EWMA": (EWMA, tuple({"lambda_": one, "threshold_outlier": np.inf} for one in (0.1, 0.3, 0.5))),
    "CuSum": (CuSum, ({},)),
    "MoSum": (MoSum, tuple({"h": one} for one in (0.25, 0.5, 1))),
}
"""Each monitor with the choices of its memory."""


def residuals(season: Season, series: Series, settings: RuleSettings) -> tuple[Days, Floats]:
    """Return the days on which views became known (T,) and the views' residuals on them (T, P), NaN where there is none."""
    leader, progress = at_its_end(season, series, settings)
    medians = {group: row.median_ndvi for group, row in progress.items()}
    n_days = max(len(one) for one in medians.values())
    table = np.full((len(leader.groups) + 1, n_days), np.nan)
    for nr, group in enumerate(progress):
        table[nr, : len(medians[group])] = medians[group]
    rows = series.optical
    day = (rows.days - np.datetime64(season.starts_on)).astype(np.int64)
    residual = rows.values[:, 0] - table[group_of(leader, progress)[rows.parcel], np.clip(day, 0, n_days - 1)]
    days, at = np.unique(rows.known_from, return_inverse=True)
    wide, is_known = np.full((len(days), series.n_parcels), np.nan), np.isfinite(residual)
    wide[at[is_known], rows.parcel[is_known]] = residual[is_known]
    return days, wide


def fields_before(season: Season, past: Season) -> Ints:
    """Return (P,) the parcel of the season before on the same field."""
    before = farmed(past.config)["field"].to_numpy(np.int64)
    place = np.zeros(before.max() + 1, np.int64)
    place[before[::-1]] = np.arange(len(before))[::-1]  # of a field that was divided, the first part
    return np.asarray(place[farmed(season.config)["field"].to_numpy(np.int64)])


def processes(
    season: Season, past: tuple[Season, Series], series: Series, settings: RuleSettings
) -> dict[str, dict[str, Process]]:
    """Return the score of each monitor and of each choice of its memory."""
    history_days, history = residuals(*past, settings)
    history = history[:, fields_before(season, past[0])]
    days, monitored = residuals(season, series, settings)
    return {
        name: {
            ", ".join(f"{key.strip('_')} {value}" for key, value in choice.items()): process(
                kind(**PLAIN, **choice), history_days, history, days, monitored
            )
            for choice in choices
        }
        for name, (kind, choices) in MONITORS.items()
    }


def process(monitor: Any, history_days: Days, history: Floats, days: Days, monitored: Floats) -> Process:
    """Return the score of one monitor; history (H, P), monitored (T, P)."""
    stack = xarray.DataArray(
        history[:, None, :],
        dims=("time", "y", "x"),
        coords={"time": history_days.astype("M8[ns]"), "y": [0], "x": np.arange(history.shape[1])},
    )
    score = np.full((monitored.shape[1], len(days)), np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # short histories are masked, as they should be
        monitor.fit(stack, method="OLS", **({"screen_outliers": None} if isinstance(monitor, EWMA) else {}))
        monitor.mask[monitor.mask == 2] = 1
        for nr, day in enumerate(days.astype("M8[D]").astype(object)):
            monitor.monitor(monitored[nr][None], datetime(day.year, day.month, day.day))  # noqa: DTZ001 (nrt's own)
            ratio = np.abs(monitor.process) / monitor.boundary
            score[:, nr] = np.where(monitor.mask == 1, ratio, np.nan)[0]
    return Process(days, score)
