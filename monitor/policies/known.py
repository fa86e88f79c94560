"""What obligations are decided on: the parcels that are asked, and what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.parcels import DeclaredParcels
from db.seasons import Season
from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.alerts.rules import ClearViews
from monitor.markers.field_work import FieldWork, field_work
from monitor.markers.form import Events, Floats, Marked, RadarViews
from monitor.markers.mowing import mowing
from monitor.markers.parts import PixelViews
from monitor.policies.policy import Obligation, Selection
from monitor.season_series import NEVER, SeasonSeries


@dataclass(frozen=True)
class Asked:
    """The parcels that are asked, as selections see them; arrays (P,)."""

    declared: DeclaredParcels
    source_id: Sequence[str]

    def of(self, parcels: Ints) -> "Asked":
        """Return some of the parcels."""
        some, taken = parcels.tolist(), dict[str, Any]()
        for one in fields(self.declared):
            values = getattr(self.declared, one.name)
            taken[one.name] = values[parcels] if isinstance(values, np.ndarray) else [values[nr] for nr in some]
        return Asked(DeclaredParcels(**taken), [self.source_id[nr] for nr in some])

    def applies(self, to: Selection) -> Bools:
        """Return (P,) which parcels are selected."""
        crops = list(zip(self.declared.crop_code, self.declared.hcat_code, strict=True))
        is_selected = {
            crop: (_is_among(crop, to.crops) or not to.crops) and not _is_among(crop, to.except_crops)
            for crop in set(crops)
        }
        is_of = np.array([is_selected[crop] for crop in crops], bool)
        region = np.array(self.declared.region, object)
        if to.regions:
            is_of &= np.isin(region, list(to.regions))
        is_of &= ~np.isin(region, list(to.except_regions)) & (self.declared.area_ha >= to.min_area_ha)
        if to.source_ids is not None:
            listed = frozenset(to.source_ids)
            is_of &= np.array([one in listed for one in self.source_id], bool)
        return is_of


def _is_among(crop: tuple[str | None, str | None], codes: Sequence[str]) -> bool:
    own, hcat = crop
    return any(
        (hcat or "").startswith(code.removeprefix("hcat:"))
        if code.startswith("hcat:")
        else own == code.removeprefix("code:")
        for code in codes
    )


@dataclass(frozen=True)
class Known:
    """What is known of P parcels."""

    views: ClearViews
    """Of any days."""
    passes: RadarViews | Callable[[], RadarViews]
    """Of any days; may be made when it is first asked for, since few obligations read it."""
    today: Days
    """(P,) the day of the newest observation of each, by either sensor; NaT where there is none."""
    harvest_year: int
    is_grass: Bools | None = None
    """(P,) of which cuts are looked for; None: of all."""
    arable: tuple[Bools, Sequence[str | None]] | None = None
    """(P,) of which field work is looked for, and HCAT codes of the declared crops."""

    @classmethod
    def of(cls, series: SeasonSeries, season: Season) -> "Known":
        """Return what a season's series say."""
        today = np.where(series.newest > NEVER, series.newest.astype("M8[D]"), np.datetime64("NaT"))
        starts_on = season.starts_on
        passes = partial(radar_views, series, starts_on)
        return cls(clear_views(series, starts_on), passes, today, season.harvest_year)

    @cached_property
    def radar(self) -> RadarViews:
        """Return the passes."""
        return self.passes() if callable(self.passes) else self.passes

    @cached_property
    def cuts(self) -> Marked:
        """Return what mowing is found, once for all obligations."""
        views, radar, of = self.views, self.radar, self.is_grass
        if of is None:
            return mowing(views, radar)
        return mowing(views.only(of[views.parcel]), radar.only(of[radar.parcel]), of)

    @cached_property
    def field_work(self) -> FieldWork:
        """Return harvest and tillage, once for all obligations; of parcels of which they are not looked for nothing is seen."""
        views, radar = self.views, self.radar
        of, codes = self.arable or (np.zeros(views.n_parcels, bool), [None] * views.n_parcels)
        some = views.only(of[views.parcel]), radar.only(of[radar.parcel])
        return field_work(*some, codes, self.harvest_year, self.today)


def clear_views(series: SeasonSeries, starts_on: date) -> ClearViews:
    """Return the season's clear views; two passes on a day count as one, the greener one."""
    return ClearViews.greenest(
        series.view_parcel, _days(series.views, starts_on), series.views["ndvi"], len(series.newest)
    )


def radar_views(series: SeasonSeries, starts_on: date, of: Bools | None = None) -> RadarViews:
    """Return the season's passes, of some of the parcels (P,)."""
    some = slice(None) if of is None else of[series.pass_parcel]
    passes = series.passes[some]
    return RadarViews.of_backscatter(
        series.pass_parcel[some], _days(passes, starts_on), passes["orbit"], passes["vv_db"], passes["vh_db"]
    )


def pixel_views(series: SeasonSeries, starts_on: date) -> PixelViews:
    """Return the season's clear views with the splits of their pixel sets."""
    return PixelViews(series.view_parcel, _days(series.views, starts_on), series.views["split"], len(series.newest))


def _days(rows: NDArray[np.void], starts_on: date) -> Days:
    return np.asarray(np.datetime64(starts_on) + np.floor(rows["day"]).astype("m8[D]"))


def window(obligation: Obligation, views: ClearViews) -> Bools:
    """Return (N,) which views lie in the window."""
    return np.asarray((views.days >= np.datetime64(obligation.begin)) & (views.days <= np.datetime64(obligation.until)))


def may_lie(events: Events, begin: np.datetime64, until: np.datetime64, n_parcels: int) -> Ints:
    """Return (P,) how many events may lie between two days, both included."""
    may = (events.end >= begin) & (events.begin <= until)
    return np.bincount(events.parcel[may], minlength=n_parcels)


def lies(obligation: Obligation, events: Events) -> Bools:
    """Return (E,) which events lie in the window for certain."""
    begin, until = np.datetime64(obligation.begin), np.datetime64(obligation.until)
    return np.asarray((events.begin >= begin) & (events.end <= until))


def first_of(events: Events, which: Bools, n_parcels: int) -> tuple[Days, Floats]:
    """Return (P,) by which day the first event under a mask had happened, NaT where there is none, and the highest confidence of those."""
    first, confidence = np.full(n_parcels, np.datetime64("NaT", "D")), np.zeros(n_parcels)
    first[events.parcel[which][::-1]] = events.end[which][::-1]  # of equal indices the last assignment stays
    np.maximum.at(confidence, events.parcel[which], events.confidence[which])
    return first, confidence


def deadline(obligation: Obligation) -> np.datetime64:
    """Return the last day with its grace."""
    return np.datetime64(obligation.until) + np.timedelta64(obligation.grace_days, "D")


def named(obligation: Obligation) -> dict[str, Any]:
    """Return what the evidence of every kind says first."""
    return {"kind": obligation.kind, "from": str(obligation.begin), "until": str(obligation.until)}


def still_open(obligation: Obligation) -> Callable[[int], Mapping[str, Any]]:
    """Return the evidence of what may still be met: the deadline, from which whoever shows it counts the days left."""
    return lambda _: {"reason": f"not seen yet; may be met until {obligation.until}", "deadline": str(obligation.until)}
