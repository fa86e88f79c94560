"""Daily NDVI of parcels with news: which days the news inform, and their rows.

    a radar pass       the days since the last row
    a clear view       also the days back to the two clear views before it: what lies between is drawn anew, as a revision
                       (two, because the new view may show that the last one was a residual cloud dip)
    anything late      likewise, from the day before which nothing changes

Nothing else is rewritten, so the work for an acquisition does not grow with the season.
"""

from datetime import date, datetime
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import beliefs
from db.beliefs import NdviRows
from db.parcels import Season
from db.series import DIRECTIONS
from db.work import Claim
from models.ndvi_curve import ORIGINS, NdviModel
from models.ndvi_inputs import ClearSeries, SarSeries
from models.ndvi_update import update_curve
from monitor.features import means, season_days

VIEWS_BACK: Final = 2
LONGEST_REACH_D: Final = 120
"""A clear view informs no day further back: the reach of a view in the curve's own model."""


def draw(
    connection: sa.Connection, model_key: int, model: NdviModel, claim: Claim, season: Season, s2: NDArray[np.void],
    s1: NDArray[np.void], now: datetime,
) -> int:  # fmt: skip
    """Stores the rows that the claim's news inform; returns how many.

    Args:
        s2, s1: all that is known of the claimed parcels, sorted by parcel and time.
    """
    keys = claim.parcel_keys
    sar, clear = curve_series(s2, s1, keys, season)
    known = np.full(len(keys), -(10**6))
    for one in (sar, clear):
        np.maximum.at(known, one.parcel, np.floor(one.day).astype(np.int64))
    first = _first_informed(connection, claim, season, sar, clear)
    rows = update_curve(model, sar, clear, np.maximum(first, 0), known)
    # Rows of which nothing is known but the season are no statement about the parcel: they are not stored.
    says = np.flatnonzero(rows.origin != ORIGINS.index("prior"))
    day = np.datetime64(season.starts_on) + rows.day[says]
    is_observed = rows.origin[says] == ORIGINS.index("observed")
    stored = NdviRows(keys[rows.parcel[says]], day, rows.is_causal[says], is_observed, rows.ndvi[says], rows.sd[says])
    beliefs.save_ndvi(connection, stored, model_key, now)
    return len(says)


def curve_series(
    s2: NDArray[np.void], s1: NDArray[np.void], keys: NDArray[np.int64], season: Season
) -> tuple[SarSeries, ClearSeries]:
    """Stored rows, sorted by parcel and time, as the curve's model takes them."""
    clear = s2[np.isfinite(s2["ndvi"])]
    vv, vh = means(s1, ("VV", "VH")).T.astype(np.float64)
    sar = SarSeries(
        np.searchsorted(keys, s1["parcel_key"]), season_days(s1["observed_at"], season.starts_on).astype(np.float64),
        s1["relative_orbit"].astype(np.int64), s1["direction_nr"] != DIRECTIONS.index("descending") + 1, vv, vh,
    )  # fmt: skip
    days = season_days(clear["observed_at"], season.starts_on).astype(np.float64)
    return sar, ClearSeries(np.searchsorted(keys, clear["parcel_key"]), days, clear["ndvi"].astype(np.float64))


def _first_informed(
    connection: sa.Connection, claim: Claim, season: Season, sar: SarSeries, clear: ClearSeries
) -> NDArray[np.int64]:
    """(P,) the first day whose row the claim's news may change."""
    start = np.full(len(claim.parcel_keys), 10**6)
    for one in (sar, clear):
        np.minimum.at(start, one.parcel, np.floor(one.day).astype(np.int64))
    last_row = beliefs.last_days(connection, claim.parcel_keys)
    first = np.array([_day(last_row.get(int(key)), season) for key in claim.parcel_keys])
    first = np.where(first < 0, start, first + 1)
    pending = claim.pending
    index = np.searchsorted(claim.parcel_keys, pending["parcel_key"])
    new_day = np.floor(season_days(pending["observed_at"], season.starts_on)).astype(np.int64)
    for p, day, is_s2, is_rebuild in zip(index, new_day, pending["is_s2"], pending["is_rebuild"], strict=True):
        if is_rebuild:
            first[p] = start[p]
        elif is_s2:
            before = np.unique(np.floor(clear.day[slice(*np.searchsorted(clear.parcel, [p, p + 1]))]))
            before = before[before < day]
            reach = day - LONGEST_REACH_D
            first[p] = min(
                first[p], max(int(before[-VIEWS_BACK]) + 1 if len(before) >= VIEWS_BACK else start[p], reach)
            )
        else:
            first[p] = min(first[p], day)
    informed: NDArray[np.int64] = np.maximum(first, start)
    return informed


def _day(last: date | None, season: Season) -> int:
    return -1 if last is None else (last - season.starts_on).days
