"""The season's clear views and radar of parcels, as the curve's model and the rules take them, and as one compact row each.

    carried up to the batch before ── joined with ── the pending observations        parcels whose work is in order
    nothing                        ── joined with ── all that is known of them       all other parcels

So an acquisition that comes in order costs one row read, whatever the day of the season. A carried series is a cache: one that
is missing or of another version is made anew from the observations. It holds what the markers of field work last said
(monitor/stages/field_work.py), too: to read that costs the server as much as to find it.

Shapes: P parcels; N views and M passes, sorted by parcel and time.
Units:  days since the season's start; NDVI dimensionless; backscatter in dB.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db.predictions import MODALITIES
from db.series import DIRECTIONS
from db.states import States
from models.ndvi.inputs import ClearSeries, SarSeries
from monitor.features import means, season_days, split_modalities
from monitor.markers.parts import SPLIT

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEVER: Final = np.datetime64("0001-01-01", "us")
_VIEW: Final = np.dtype([("day", "<f4"), ("ndvi", "<f4"), ("split", SPLIT)])
_PASS: Final = np.dtype([("day", "<f4"), ("vv_db", "<f4"), ("vh_db", "<f4"), ("orbit", "<i2"), ("direction_nr", "i1")])
MARKERS: Final = ("emergence", "harvest", "tillage", "vigour", "own_past")
"""Markers whose last word is carried."""
SAID: Final = np.dtype([("status", "i1"), ("day", "<i2"), ("value", "<f4"), ("confidence", "<f4")])
"""What a marker said: 0 for nothing yet, else 1 and the place of its status; -1 for no value or confidence; `NO_DAY` for no day."""
NO_DAY: Final = -(1 << 15)
_HEAD: Final = np.dtype(
    [
        ("version", "<u2"),
        ("views", "<u2"),
        ("passes", "<u2"),
        ("newest", "<i8"),
        ("n_observations", "<i4", (4,)),
        ("bands_seen", "<u8"),
        ("said", SAID, (len(MARKERS),)),
    ]
)
_VERSION: Final = 4
"""Raised when the layout changes: series of another version are made anew."""


@dataclass(frozen=True)
class SeasonSeries:
    """What is known of P parcels, current revisions only."""

    views: NDArray[np.void]
    """(N,) day and ndvi of the clear views, and the split of their pixel sets (monitor/stages/parts.py; until then as of no set)."""
    view_parcel: Ints
    """(N,)"""
    is_new_view: Bools
    """(N,) pending."""
    passes: NDArray[np.void]
    """(M,) day, vv_db, vh_db, orbit and direction_nr of the radar's passes."""
    pass_parcel: Ints
    """(M,)"""
    is_new_pass: Bools
    """(M,) pending."""
    n_observations: Ints
    """(P, 4) observations by modality (`MODALITIES`), cloudy ones too."""
    newest: NDArray[np.datetime64]
    """(P,) the newest of them, `NEVER` where there is none."""
    said: NDArray[np.void]
    """(P, K) what the `MARKERS` last said."""
    bands_seen: NDArray[np.uint64]
    """(P,) the number of what was known of the neighbours' band when vigour was last said (`Bands.until`), 0 where it never was."""

    @classmethod
    def of(
        cls,
        s2: NDArray[np.void],
        s1: NDArray[np.void],
        is_new: tuple[Bools, Bools] | None,
        parcel_keys: Ints,
        starts_on: date,
    ) -> "SeasonSeries":
        """Return the series of stored rows of both sensors, sorted by parcel and time; `is_new` says which are pending (None: none)."""
        is_new = is_new or (np.zeros(len(s2), bool), np.zeros(len(s1), bool))
        clear, place = np.isfinite(s2["ndvi"]), np.searchsorted(parcel_keys, s1["parcel_key"])
        views, passes = np.empty(int(clear.sum()), _VIEW), np.empty(len(s1), _PASS)
        views["day"], views["ndvi"] = season_days(s2["observed_at"][clear], starts_on), s2["ndvi"][clear]
        views["split"] = np.zeros(1, SPLIT)
        passes["day"] = season_days(s1["observed_at"], starts_on)
        passes["vv_db"], passes["vh_db"] = means(s1, ("VV", "VH")).T
        passes["orbit"], passes["direction_nr"] = s1["relative_orbit"], s1["direction_nr"]
        counts, newest = np.zeros((len(parcel_keys), len(MODALITIES)), np.int64), np.full(len(parcel_keys), NEVER)
        for nr, rows in enumerate(split_modalities(s2, s1).values()):
            index = np.searchsorted(parcel_keys, rows["parcel_key"])
            counts[:, nr] = np.bincount(index, minlength=len(parcel_keys))
            np.maximum.at(newest, index, rows["observed_at"])
        view_parcel = np.searchsorted(parcel_keys, s2["parcel_key"][clear])
        said = np.zeros((len(parcel_keys), len(MARKERS)), SAID)
        never = np.zeros(len(parcel_keys), np.uint64)
        return cls(views, view_parcel, is_new[0][clear], passes, place, is_new[1], counts, newest, said, never)

    @classmethod
    def carried(cls, parcel_keys: Ints, stored: States | None) -> tuple["SeasonSeries", Bools]:
        """Return the series of P parcels that are stored, and (P,) of which one is there that can be read."""
        heads, size = np.zeros(len(parcel_keys), _HEAD), _HEAD.itemsize
        rows = [] if stored is None else stored.state.to_pylist()
        place = np.searchsorted(parcel_keys, stored.parcel_key) if stored is not None else np.zeros(0, np.int64)
        heads[place] = np.frombuffer(b"".join(one[:size].ljust(size, b"\0") for one in rows), _HEAD)
        view_ends = size + heads["views"].astype(np.int64) * _VIEW.itemsize
        sizes = np.zeros(len(parcel_keys), np.int64)
        sizes[place] = [len(one) for one in rows]
        has = (heads["version"] == _VERSION) & (view_ends + heads["passes"].astype(np.int64) * _PASS.itemsize == sizes)
        heads = np.where(has, heads, np.zeros(1, _HEAD))
        there = [
            (one, end)
            for one, end, is_whole in zip(rows, view_ends[place].tolist(), has[place], strict=True)
            if is_whole
        ]
        views = np.frombuffer(b"".join(one[size:end] for one, end in there), _VIEW)
        passes = np.frombuffer(b"".join(one[end:] for one, end in there), _PASS)
        parcel = np.arange(len(parcel_keys))
        return cls(
            views,
            np.repeat(parcel, heads["views"]),
            np.zeros(len(views), bool),
            passes,
            np.repeat(parcel, heads["passes"]),
            np.zeros(len(passes), bool),
            heads["n_observations"].astype(np.int64),
            np.where(has, heads["newest"].astype("M8[us]"), NEVER),
            heads["said"].copy(),
            heads["bands_seen"].copy(),
        ), has

    def joined(self, later: "SeasonSeries") -> "SeasonSeries":
        """Return the series of the same parcels with later observations."""
        views, view_parcel, is_new_view = _by_parcel(
            (self.views, self.view_parcel, self.is_new_view), (later.views, later.view_parcel, later.is_new_view)
        )
        passes, pass_parcel, is_new_pass = _by_parcel(
            (self.passes, self.pass_parcel, self.is_new_pass), (later.passes, later.pass_parcel, later.is_new_pass)
        )
        n_observations, newest = self.n_observations + later.n_observations, np.maximum(self.newest, later.newest)
        return replace(
            self,
            views=views,
            view_parcel=view_parcel,
            is_new_view=is_new_view,
            passes=passes,
            pass_parcel=pass_parcel,
            is_new_pass=is_new_pass,
            n_observations=n_observations,
            newest=newest,
        )

    def count(self, modalities: Iterable[str]) -> Ints:
        """Return (P,) observations of some modalities."""
        return np.asarray(self.n_observations[:, [MODALITIES.index(one) for one in modalities]].sum(axis=1))

    def where(self, keep: Bools) -> "SeasonSeries":
        """Return the series of the parcels to keep (P,), nothing of the others."""
        view, one_pass = keep[self.view_parcel], keep[self.pass_parcel]
        return SeasonSeries(
            self.views[view],
            self.view_parcel[view],
            self.is_new_view[view],
            self.passes[one_pass],
            self.pass_parcel[one_pass],
            self.is_new_pass[one_pass],
            np.where(keep[:, None], self.n_observations, 0),
            np.where(keep, self.newest, NEVER),
            np.where(keep[:, None], self.said, np.zeros(1, SAID)),
            np.where(keep, self.bands_seen, np.uint64(0)),
        )

    def until(self, parcels: Ints, time: NDArray[np.float64]) -> "SeasonSeries":
        """Return the clear views and passes of some parcels (Q,), ascending, up to a time of each (Q,), in days; of parcels 0, 1 ..."""
        (view, view_parcel), (one_pass, pass_parcel) = (
            _up_to(rows["day"], parcel, parcels, time)
            for rows, parcel in ((self.views, self.view_parcel), (self.passes, self.pass_parcel))
        )
        return SeasonSeries(
            self.views[view],
            view_parcel,
            self.is_new_view[view],
            self.passes[one_pass],
            pass_parcel,
            self.is_new_pass[one_pass],
            self.n_observations[parcels],
            self.newest[parcels],
            self.said[parcels],
            self.bands_seen[parcels],
        )

    def views_of(self, parcels: Ints) -> tuple[NDArray[np.void], Ints]:
        """Return the clear views of some parcels (Q,), ascending, and the place among the Q of each."""
        place, own = _up_to(self.views["day"], self.view_parcel, parcels, np.full(len(parcels), np.inf))
        return self.views[place], own

    def with_splits(self, places: Ints, splits: NDArray[np.void]) -> "SeasonSeries":
        """Return the series with the splits of some views."""
        views = self.views.copy()
        views["split"][places] = splits
        return replace(self, views=views)

    def stored(self, parcels: Ints) -> pa.BinaryArray:
        """Return the compact rows of some parcels."""
        n = len(self.newest)
        heads = np.zeros(n, _HEAD)
        heads["version"], heads["newest"] = _VERSION, self.newest.astype(np.int64)
        heads["views"], heads["passes"] = (
            np.bincount(one, minlength=n) for one in (self.view_parcel, self.pass_parcel)
        )
        heads["n_observations"], heads["said"] = self.n_observations, self.said
        heads["bands_seen"] = self.bands_seen
        parts = [
            (values.tobytes(), (np.r_[0, np.cumsum(heads[name], dtype=np.int64)] * values.itemsize).tolist())
            for name, values in (("views", self.views), ("passes", self.passes))
        ]
        (views, view), (passes, one_pass) = parts
        head, size = heads.tobytes(), _HEAD.itemsize
        rows = [
            head[p * size : (p + 1) * size] + views[view[p] : view[p + 1]] + passes[one_pass[p] : one_pass[p + 1]]
            for p in parcels.tolist()
        ]
        return pa.array(rows, pa.binary())

    def sar(self) -> SarSeries:
        """Return the radar as the curve's model takes it."""
        return SarSeries(
            self.pass_parcel,
            self.passes["day"].astype(np.float64),
            self.passes["orbit"].astype(np.int64),
            self.passes["direction_nr"] != DIRECTIONS.index("descending") + 1,
            self.passes["vv_db"].astype(np.float64),
            self.passes["vh_db"].astype(np.float64),
        )

    def clear(self) -> ClearSeries:
        """Return the clear views as the curve's model takes them."""
        return ClearSeries(
            self.view_parcel, self.views["day"].astype(np.float64), self.views["ndvi"].astype(np.float64)
        )


def curve_series(
    s2: NDArray[np.void], s1: NDArray[np.void], parcel_keys: Ints, starts_on: date
) -> tuple[SarSeries, ClearSeries]:
    """Return stored rows, sorted by parcel and time, as the curve's model takes them."""
    series = SeasonSeries.of(s2, s1, None, parcel_keys, starts_on)
    return series.sar(), series.clear()


def _up_to(
    days: NDArray[np.floating[Any]], parcel: Ints, parcels: Ints, time: NDArray[np.float64]
) -> tuple[Ints, Ints]:
    """Return the places of rows of some parcels (Q,) up to a time of each, and the place among the Q of each such row."""
    begin, end = (np.searchsorted(parcel, parcels, side=side) for side in ("left", "right"))
    n = end - begin
    own = np.repeat(np.arange(len(parcels)), n)
    place = np.arange(len(own)) + np.repeat(begin - (np.cumsum(n) - n), n)
    kept = days[place] <= time[own]
    return place[kept], own[kept]


def _by_parcel(*parts: tuple[NDArray[Any], Ints, Bools]) -> tuple[NDArray[Any], Ints, Bools]:
    """Return the rows of all parts by parcel, in each the earlier part's first."""
    if not len(parts[0][1]):
        return parts[1]
    values, parcel, is_new = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(parcel, kind="stable")
    return values[order], parcel[order], is_new[order]
