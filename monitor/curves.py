"""Daily NDVI of parcels with news: which days the news inform, and their rows.

    a radar pass       the days since the last row
    a clear view       also the days back to the two clear views before it: what lies between is drawn anew, as a revision
                       (two, because the new view may show that the last one was a residual cloud dip)
    anything late      likewise, from the day before which nothing changes

Nothing else is rewritten, and what the networks read up to `DELAY_DAYS` ago is stored with them (models.gap_streaming): the
work for an acquisition does not grow with the season. A stored state is a cache: one that is missing, of another model or
no longer what is known is made anew, and the rows are the same.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import beliefs
from db.beliefs import NdviRows, StateRow
from db.parcels import Season
from db.series import DIRECTIONS
from db.work import Claim
from models.gap_carried import Carried, from_bytes, to_bytes
from models.gap_curve import ORIGINS, draw_curve
from models.gap_model import GapModel
from models.gap_streaming import begin
from models.ndvi_inputs import ClearSeries, SarSeries
from models.ndvi_views import MODES, Mode
from monitor.features import means, season_days

SEQUENCE: Final[Mapping[Mode, str]] = {mode: f"ndvi {mode}" for mode in MODES}
"""Under which the networks' states are stored, beside those of the classifier's modalities."""
VIEWS_BACK: Final = 2
LONGEST_REACH_D: Final = 120
"""A clear view informs no day further back: the reach of a view in the curve's own model."""


def draw(
    connection: sa.Connection, model_key: int, model: GapModel, claim: Claim, season: Season, s2: NDArray[np.void],
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
    carried = _carried(connection, model_key, model, keys)
    rows = draw_curve(model, sar, clear, np.maximum(first, 0), known, carried)
    _save_carried(connection, model_key, carried, rows.carried, sar, clear, claim, season)
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


def _carried(
    connection: sa.Connection, model_key: int, model: GapModel, keys: NDArray[np.int64]
) -> dict[Mode, Carried]:  # fmt: skip
    """The states that the last look left behind, empty where there is none."""
    stored = {(row.parcel_key, row.modality): row.state for row in beliefs.load_states(connection, keys, model_key)}
    return {
        mode: from_bytes([stored.get((int(key), SEQUENCE[mode])) for key in keys], begin(model, mode, len(keys)))
        for mode in MODES
    }


def _save_carried(
    connection: sa.Connection, model_key: int, before: Mapping[Mode, Carried], after: Mapping[Mode, Carried],
    sar: SarSeries, clear: ClearSeries, claim: Claim, season: Season,
) -> None:  # fmt: skip
    """Stores the states that have read something, of parcels that anything is known of."""
    midnight = datetime(season.starts_on.year, season.starts_on.month, season.starts_on.day, tzinfo=UTC)
    rows: list[StateRow] = []
    for mode, one in after.items():
        old, n_read = before[mode], np.zeros(len(one.day), np.int64)
        for series in (sar, clear):
            n_read += np.bincount(series.parcel[series.day < one.day[series.parcel] + 1], minlength=len(n_read))
        is_new = (one.steps_sum != old.steps_sum) | (one.views_sum != old.views_sum)
        some = np.flatnonzero(is_new & (n_read > 0))
        rows += [
            StateRow(int(claim.parcel_keys[p]), SEQUENCE[mode], int(n_read[p]), midnight + timedelta(int(one.day[p]) + 1), state)
            for p, state in zip(some, to_bytes(one.rows(some)), strict=True)
        ]  # fmt: skip
    if rows:
        beliefs.save_states(connection, model_key, rows)


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
