"""What is found of parcels by each obligation of a policy, from their clear views alone.

    covered         never seen bare in the window (winter soil cover)
    cover_days      vegetation in one stretch of so many days in the window (catch crop)
    established_by  vegetation seen by the last day of the window (establishment deadline)
    not_ploughed    a green stand is not lost in the window (permanent grassland)
    mown            a cut or grazing is seen in the window; what was not is yellow at most: cuts are missed too
    not_mown        no cut is seen in the window (nesting, hay meadows)

A run is a stretch of consecutive clear views that show the same. A departure is yellow at its first view and red once a view
`confirm_days` later is of the same run; one contrary view between them ends the run, so that a single leaked cloud makes none red.
What was once red stays so where growing again does not undo it (ploughed, late, left bare). Before the last day nothing that can
still be done departs: NOT_VALID names the deadline.
Source: Sen4CAP L4C (vegetation above NDVI 0.35, loss below 0.30, catch crop: 56 days above 0.325).
Shapes: P parcels with N clear views (`monitor.alerts.rules.ClearViews`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from db.parcels import DeclaredParcels
from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Days, Ints
from monitor.alerts.rules import (
    GREEN,
    LOSS_NDVI,
    NOT_EXECUTED,
    NOT_VALID,
    RED,
    YELLOW,
    Case,
    ClearViews,
    Decisions,
    because,
    unseen,
)
from monitor.alerts.runs import Runs, longest_runs
from monitor.markers.form import OK, Events, Marked, RadarViews
from monitor.markers.grazing import USES, grassland_use, grazing
from monitor.markers.mowing import mowing
from monitor.policies.policy import Kind, Obligation, Policy, Selection

LEVEL: Final[Mapping[Kind, float]] = {
    "covered": LOSS_NDVI,
    "cover_days": 0.325,
    "established_by": VEGETATION_NDVI,
    "not_ploughed": LOSS_NDVI,
}
"""NDVI that an obligation goes by where it names none (Sen4CAP L4C)."""
GREEN_STAND_NDVI: Final = 0.50
"""A stand must have been this green before it can be lost: above half cover (as `RuleSettings.loss_from_ndvi`)."""
SURE_CUT: Final = 0.9
"""Confidence at which a cut is red: no single sensor's fall alone, or one that the next views confirm (chosen)."""
LONGEST_GAP_DAYS: Final = 40
"""Views farther apart are no one stretch of cover: a crop can be sown and lost between (chosen as a fast catch crop's time)."""
_DAY: Final = np.timedelta64(1, "D")
NEVER: Final = np.datetime64("NaT", "D")


@dataclass(frozen=True)
class Asked:
    """The parcels that are asked, as selections see them; arrays (P,)."""

    declared: DeclaredParcels
    source_id: Sequence[str]

    def applies(self, to: Selection) -> Bools:
        """Return (P,) which parcels are selected."""
        crops = list(zip(self.declared.crop_code, self.declared.hcat_code, strict=True))
        is_of = np.array([_is_among(crop, to.crops) or not to.crops for crop in crops], bool)
        is_of &= ~np.array([_is_among(crop, to.except_crops) for crop in crops], bool)
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
    radar: RadarViews
    today: Days
    """(P,) the day of the newest observation of each, by either sensor; NaT where there is none."""
    is_grass: Bools | None = None
    """(P,) of which cuts are looked for; None: of all."""

    @cached_property
    def cuts(self) -> Marked:
        """Return what mowing is found, once for all obligations."""
        views, radar, of = self.views, self.radar, self.is_grass
        if of is None:
            return mowing(views, radar)
        some = of[views.parcel]
        views = ClearViews(views.parcel[some], views.days[some], views.ndvi[some], views.n_parcels)
        return mowing(views, radar.only(of[radar.parcel]), of)


def decide(policy: Policy, asked: Asked, known: Known) -> Iterator[Decisions]:
    """Yield of each obligation of a policy whether P parcels meet it; the evidence names the policy."""
    under = {"policy": policy.name, "policy_version": policy.version, "policy_sha256": policy.hash}
    selected = [asked.applies(obligation.parcels) for obligation in policy.obligation]
    of_grass = [of for of, one in zip(selected, policy.obligation, strict=True) if one.kind in ("mown", "not_mown")]
    known = replace(known, is_grass=np.any(of_grass, axis=0)) if of_grass else known
    for obligation, applies in zip(policy.obligation, selected, strict=True):
        decided = _KINDS[obligation.kind](obligation, known, applies)
        not_asked = Case(~applies, NOT_EXECUTED, because("the obligation does not ask this of the parcel"))
        begins = np.datetime64(obligation.begin)
        too_early = Case(~(known.today >= begins), NOT_EXECUTED, because(f"asked from {begins} on"))
        cases = [not_asked, too_early, *(_named(case, under) for case in decided.cases)]
        yield Decisions(obligation.name, cases, decided.departed_on)


def _named(case: Case, under: Mapping[str, Any]) -> Case:
    return replace(case, evidence=lambda parcel: {**case.evidence(parcel), **under})


def _runs(views: ClearViews, which: Bools, inside: Bools, longest_gap: int | None = None) -> Runs:
    """Return each parcel's longest run of consecutive views `inside` (N,) that are under a mask (N,)."""
    return longest_runs(views.parcel[inside], views.days[inside], which[inside], views.n_parcels, longest_gap)


def _window(obligation: Obligation, views: ClearViews) -> Bools:
    """Return (N,) which views lie in the window."""
    return np.asarray((views.days >= np.datetime64(obligation.begin)) & (views.days <= np.datetime64(obligation.until)))


def _level(obligation: Obligation) -> float:
    return LEVEL[obligation.kind] if obligation.ndvi is None else obligation.ndvi


def _covered(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether the soil was left bare in the window."""
    views = known.views
    inside = _window(obligation, views)
    bare = inside & (views.ndvi < _level(obligation))
    return _of_bare_runs(obligation, views, inside, bare)


def _not_ploughed(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether a stand that was green before was lost in the window."""
    views = known.views
    inside = _window(obligation, views)
    green = np.cumsum(views.ndvi >= GREEN_STAND_NDVI)
    begins = np.searchsorted(views.parcel, np.arange(views.n_parcels))
    before = np.r_[0, green][begins][views.parcel]
    # Two green views before: one can be a neighbouring field's edge.
    bare = inside & (views.ndvi < _level(obligation)) & (green - before >= 2)
    decided = _of_bare_runs(obligation, views, inside, bare)
    was_green = np.bincount(views.parcel[views.ndvi >= GREEN_STAND_NDVI], minlength=views.n_parcels) >= 2
    not_green = Case(~was_green, NOT_VALID, unseen(f"not yet seen green (NDVI {GREEN_STAND_NDVI} on two days)"))
    return Decisions(obligation.name, [not_green, *decided.cases], decided.departed_on)


def _of_bare_runs(obligation: Obligation, views: ClearViews, inside: Bools, bare: Bools) -> Decisions:
    runs = _runs(views, bare, inside)
    newest = np.full(views.n_parcels, False)
    newest[views.parcel[inside]] = bare[inside]  # of equal indices the last assignment stays
    evidence = _evidence(obligation, views, inside)
    # A single bare view that a later one contradicts was no bare soil.
    return Decisions(
        obligation.name,
        [
            Case(~_has(views, inside), NOT_VALID, unseen(f"no clear view since {obligation.begin}")),
            Case(runs.days > obligation.confirm_days, RED, evidence, _agreeing(runs)),
            Case((runs.n > 0) & newest, YELLOW, evidence, _agreeing(runs)),
            Case(runs.n >= 0, GREEN, evidence),
        ],
        runs.first,
    )


def _cover_days(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether a stretch of cover was seen, can still come, or cannot be any more."""
    views, today = known.views, known.today
    inside, needed = _window(obligation, views), obligation.days
    begin, until = np.datetime64(obligation.begin), np.datetime64(obligation.until)
    vegetated = inside & (views.ndvi >= _level(obligation))
    seen = _runs(views, vegetated, inside, LONGEST_GAP_DAYS)
    bare = np.flatnonzero(inside & ~vegetated)
    # Days without a bare view: from one bare view to the next, from the window's begin, and to its end.
    parcel = np.r_[np.arange(views.n_parcels), views.parcel[bare], np.arange(views.n_parcels)]
    day = np.r_[np.full(views.n_parcels, begin - _DAY), views.days[bare], np.full(views.n_parcels, until + _DAY)]
    order = np.lexsort((day, parcel))
    parcel, day = parcel[order], day[order]
    free = (np.diff(day).astype(np.int64) - 1) * (np.diff(parcel) == 0)
    possible = np.zeros(views.n_parcels, np.int64)
    np.maximum.at(possible, parcel[1:], free)
    cannot, is_over = possible < needed, today > until
    # What makes it impossible: the first and the last bare view since a whole stretch would have had to begin.
    after = inside & ~vegetated & (views.days >= until - np.timedelta64(needed - 1, "D"))
    late = _runs(views, after, inside)
    departed_on = np.where(np.isnat(late.first), views.day(views.last(inside & ~vegetated)), late.first)
    evidence = _evidence(obligation, views, inside)

    def of_days(parcel: int) -> Mapping[str, Any]:
        return {
            **evidence(parcel),
            "days_needed": needed,
            "days_seen": int(seen.days[parcel]),
            "days_possible": int(possible[parcel]),
        }

    def open_yet(parcel: int) -> Mapping[str, Any]:
        return {**of_days(parcel), **_open(obligation)(parcel)}

    def between(parcel: int) -> Mapping[str, Any]:
        said = f"{seen.days[parcel]} days of cover seen, up to {possible[parcel]} possible, {needed} asked"
        return {**of_days(parcel), **unseen(said)(parcel)}

    confirmed = cannot & (late.days > obligation.confirm_days)
    return Decisions(
        obligation.name,
        [
            Case(seen.days >= needed, GREEN, of_days),
            Case(confirmed, RED, of_days, _agreeing(late)),
            Case(cannot, YELLOW, of_days, _agreeing(late)),
            Case(~is_over, NOT_VALID, open_yet),
            Case(possible >= 0, NOT_VALID, between),
        ],
        departed_on,
    )


def _established_by(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether vegetation came up by the deadline with its grace."""
    views, today = known.views, known.today
    deadline = np.datetime64(obligation.until) + np.timedelta64(obligation.grace_days, "D")
    since = np.asarray(views.days >= np.datetime64(obligation.begin))
    vegetated = views.ndvi >= _level(obligation)
    in_time = since & vegetated & (views.days <= deadline)
    late = _runs(views, ~vegetated, np.asarray(views.days > deadline))
    evidence = _evidence(obligation, views, since)
    bare_later = views.count((views.days > deadline) & ~vegetated)
    return Decisions(
        obligation.name,
        [
            Case(views.count(in_time) > 0, GREEN, evidence),
            Case(~(today > deadline), NOT_VALID, _open(obligation)),
            Case(bare_later == 0, NOT_VALID, unseen(f"no clear view of bare soil or of a crop around {deadline}")),
            Case(late.days > obligation.confirm_days, RED, evidence, _agreeing(late)),
            Case(late.n >= 0, YELLOW, evidence, _agreeing(late)),
        ],
        late.first,
    )


def _mown(obligation: Obligation, known: Known, applies: Bools) -> Decisions:
    """Decide whether grass was used in the window."""
    views, until = known.views, np.datetime64(obligation.until) + np.timedelta64(obligation.grace_days, "D")
    cuts = known.cuts
    grazed = grazing(views, cuts=cuts, applies=applies)
    n_cuts, n_grazed = (_within(obligation, one.events, views.n_parcels) for one in (cuts, grazed))
    window, is_unused = _window(obligation, views), grassland_use(views, cuts, grazed) == USES.index("unmanaged")

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            **_base(obligation),
            "cuts": cuts.events.of(parcel),
            "grazing": grazed.events.of(parcel),
            "clear_views": views.shown(parcel, window),
        }

    cases = [
        Case(n_cuts + n_grazed > 0, GREEN, evidence, lambda parcel: float(np.nan_to_num(cuts.confidence[parcel]))),
        Case(~(known.today > until), NOT_VALID, _open(obligation)),
        Case(is_unused, YELLOW, evidence, lambda parcel: float(np.nan_to_num(cuts.confidence[parcel]))),
        Case(is_unused | True, NOT_VALID, unseen("neither use nor the lack of it was seen for certain")),
    ]
    return Decisions(obligation.name, cases, np.full(views.n_parcels, np.datetime64(obligation.until)))


def _not_mown(obligation: Obligation, known: Known, _applies: Bools) -> Decisions:
    """Decide whether grass was cut in the window."""
    views, cuts = known.views, known.cuts
    events, confidence = cuts.events, np.zeros(views.n_parcels)
    window, inside = _window(obligation, views), _inside(obligation, events)
    first = np.full(views.n_parcels, NEVER)
    first[events.parcel[inside][::-1]] = events.end[inside][::-1]  # of equal indices the last assignment stays
    np.maximum.at(confidence, events.parcel[inside], events.confidence[inside])

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {**_base(obligation), "cuts": events.of(parcel), "clear_views": views.shown(parcel, window)}

    def certainty(parcel: int) -> float:
        return float(confidence[parcel])

    cases = [
        Case(confidence >= SURE_CUT, RED, evidence, certainty),
        Case(confidence > 0, YELLOW, evidence, certainty),
        Case(cuts.status != OK, NOT_VALID, unseen("too few views to say whether it was cut")),
        Case(confidence == 0, GREEN, evidence),
    ]
    return Decisions(obligation.name, cases, first)


def _within(obligation: Obligation, events: Events, n_parcels: int) -> Ints:
    """Return (P,) events that may lie in the window."""
    may = (events.end >= np.datetime64(obligation.begin)) & (events.begin <= np.datetime64(obligation.until))
    return np.bincount(events.parcel[may], minlength=n_parcels)


def _inside(obligation: Obligation, events: Events) -> Bools:
    """Return (E,) which events lie in the window for certain."""
    return np.asarray(
        (events.begin >= np.datetime64(obligation.begin)) & (events.end <= np.datetime64(obligation.until))
    )


def _base(obligation: Obligation) -> dict[str, Any]:
    return {"kind": obligation.kind, "from": str(obligation.begin), "until": str(obligation.until)}


_KINDS: Final[Mapping[Kind, Callable[[Obligation, Known, Bools], Decisions]]] = {
    "covered": _covered,
    "cover_days": _cover_days,
    "established_by": _established_by,
    "not_ploughed": _not_ploughed,
    "mown": _mown,
    "not_mown": _not_mown,
}


def _has(views: ClearViews, inside: Bools) -> Bools:
    return np.asarray(views.count(inside) > 0)


def _agreeing(runs: Runs) -> Callable[[int], float]:
    """Return the confidence of a run of n views: 1 - 0.5^n, as of the rules' departures."""
    return lambda parcel: float(1 - 0.5 ** int(runs.n[parcel]))


def _evidence(obligation: Obligation, views: ClearViews, inside: Bools) -> Callable[[int], Mapping[str, Any]]:
    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            **_base(obligation),
            "clear_views": views.shown(parcel, inside),
            "threshold_ndvi": _level(obligation),
            "thresholds": {"confirm_days": obligation.confirm_days, "grace_days": obligation.grace_days},
        }

    return evidence


def _open(obligation: Obligation) -> Callable[[int], Mapping[str, Any]]:
    """Return the evidence of what may still be met: the deadline, from which whoever shows it counts the days left."""
    return lambda _: {"reason": f"not seen yet; may be met until {obligation.until}", "deadline": str(obligation.until)}
