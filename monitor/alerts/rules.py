"""The rules: pure functions from what is known of P parcels to what is found of each.

A finding is NOT_EXECUTED (the rule does not apply), NOT_VALID (not enough evidence) or OK with a colour. A lack of evidence is
never non-compliance, and only clear views count here: reconstructed NDVI alone never turns a parcel red.

    green   nothing departs
    yellow  first departure, dated, waiting for confirmation; or one that recovers (`monitor.alerts.recovery`)
    red     the departure holds on a later, independent observation

A rule is a list of cases, of which the first that applies to a parcel decides. It decides of all parcels at once, in arrays (P,);
a finding with its evidence is made only for the parcels whose finding is to be stored.
Source: Sen4CAP L4C markers for levels; each constant says where it comes from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Literal

import numpy as np

from monitor.alerts.evidence import JUDGED_BY, LACKS_OBSERVATIONS
from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, CropStands, Days, Floats, Ints
from monitor.alerts.recovery import Departures, departures
from monitor.alerts.settings import RuleSettings

Rule = Literal["crop_mismatch", "no_emergence", "early_loss", "flooding", "parts", "boundaries"]
Outcome = Literal["NOT_EXECUTED", "NOT_VALID", "OK"]
Colour = Literal["green", "yellow", "red"]
RULES: Final[tuple[Rule, ...]] = ("crop_mismatch", "no_emergence", "early_loss", "flooding", "parts", "boundaries")
VERSION: Final = "4"
"""Stored with every finding; raised when a rule decides otherwise than before on the same evidence."""
VERDICTS: Final[tuple[tuple[Outcome, Colour | None], ...]] = (
    ("NOT_EXECUTED", None),
    ("NOT_VALID", None),
    ("OK", "green"),
    ("OK", "yellow"),
    ("OK", "red"),
)
NOT_EXECUTED, NOT_VALID, GREEN, YELLOW, RED = range(len(VERDICTS))
UNKNOWN: Final = -1
"""The verdict where nothing was found yet."""

LOSS_NDVI: Final = 0.30
"""Vegetation is lost below it: the strict end of the adaptive level 0.30 to 0.35 (Sen4CAP L4C)."""


@dataclass(frozen=True)
class ClearViews:
    """Clear Sentinel-2 views of P parcels, sorted by parcel and time, at most one a day of each."""

    parcel: Ints
    """(N,) place of the parcel among the P."""
    days: Days
    """(N,) datetime64[D]."""
    ndvi: Floats
    """(N,)"""
    n_parcels: int

    @classmethod
    def greenest(cls, parcel: Ints, days: Days, ndvi: Floats, n_parcels: int) -> "ClearViews":
        """Return views that are sorted by parcel and day (N,), of several on a day the greenest: cloud only lowers NDVI."""
        is_new = (np.diff(parcel) > 0) | (np.diff(days) > np.timedelta64(0, "D"))
        begins = np.flatnonzero(np.r_[True, is_new][: len(parcel)])
        highest = np.maximum.reduceat(ndvi, begins) if len(begins) else ndvi
        return cls(parcel[begins], days[begins], highest, n_parcels)

    def only(self, which: Bools) -> "ClearViews":
        """Return the views under a mask (N,), of the same parcels."""
        return ClearViews(self.parcel[which], self.days[which], self.ndvi[which], self.n_parcels)

    def until(self, end: Days) -> "ClearViews":
        """Return the views before a day of each parcel (P,)."""
        return self.only(self.days < end[self.parcel])

    def of(self, parcels: Ints) -> "ClearViews":
        """Return the views of some parcels, ascending, which become parcels 0, 1 ..."""
        place = np.full(self.n_parcels, -1)
        place[parcels] = np.arange(len(parcels))
        keep = place[self.parcel] >= 0
        return ClearViews(place[self.parcel[keep]], self.days[keep], self.ndvi[keep], len(parcels))

    def count(self, which: Bools) -> Ints:
        """Return (P,) how many views of each parcel are under a mask (N,)."""
        return np.bincount(self.parcel[which], minlength=self.n_parcels)

    def before(self, which: Bools) -> Ints:
        """Return (N,) how many views of the same parcel before each view are under a mask (N,)."""
        n: Ints = np.cumsum(which) - which
        begins = np.searchsorted(self.parcel, np.arange(self.n_parcels))
        return np.asarray(n - np.r_[n, 0][begins][self.parcel])

    def first(self, which: Bools) -> Ints:
        """Return (P,) the place of each parcel's first view under a mask (N,), -1 where there is none."""
        places, first = np.flatnonzero(which), np.full(self.n_parcels, -1)
        first[self.parcel[places[::-1]]] = places[::-1]  # of equal indices the last assignment stays
        return first

    def last(self, which: Bools) -> Ints:
        """Return (P,) the place of each parcel's last view under a mask (N,), -1 where there is none."""
        places, last = np.flatnonzero(which), np.full(self.n_parcels, -1)
        last[self.parcel[places]] = places
        return last

    def day(self, places: Ints) -> Days:
        """Return (P,) days of places in the views, NaT for -1."""
        return np.append(self.days, np.datetime64("NaT"))[places]

    def shown(self, parcel: int, which: Bools) -> list[list[object]]:
        """Return the last views of a parcel under a mask (N,), as evidence shows them."""
        begin, end = np.searchsorted(self.parcel, [parcel, parcel + 1])
        last = begin + np.flatnonzero(which[begin:end])[-6:]  # enough to defend the finding, short enough to read
        return [[str(self.days[i]), round(float(self.ndvi[i]), 3)] for i in last]


@dataclass(frozen=True)
class Posteriors:
    """The classifier's probabilities of P parcels, each after an acquisition."""

    classes: Sequence[str]
    probabilities: Floats
    """(P, C)"""
    n_observations: Ints
    """(P,)"""
    observed_to: Days
    """(P,)"""

    def of(self, parcels: Ints) -> "Posteriors":
        """Return the posteriors of some of the parcels."""
        return Posteriors(
            self.classes, self.probabilities[parcels], self.n_observations[parcels], self.observed_to[parcels]
        )


@dataclass(frozen=True)
class Finding:
    """The outcome of a rule for a parcel."""

    rule: str
    outcome: Outcome
    colour: Colour | None
    confidence: float | None
    departed_on: date | None
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What a rule found of P parcels, without evidence."""

    verdict: Ints
    """(P,) place in `VERDICTS`, `UNKNOWN` where nothing was found yet."""
    departed_on: Days
    """(P,) since when it departs, NaT where it does not."""

    @classmethod
    def nothing(cls, n_parcels: int) -> "Found":
        """Return `UNKNOWN` for each parcel."""
        return cls(np.full(n_parcels, UNKNOWN), np.full(n_parcels, np.datetime64("NaT"), "M8[D]"))

    def of(self, parcels: Ints | Bools) -> "Found":
        """Return what was found of some of the parcels."""
        return Found(self.verdict[parcels], self.departed_on[parcels])

    def differs(self, other: "Found") -> Bools:
        """Return (P,) whether verdict or departure differs."""
        days, others = self.departed_on.astype(np.int64), other.departed_on.astype(np.int64)  # NaT is one number
        return np.asarray((self.verdict != other.verdict) | (days != others))


@dataclass(frozen=True)
class Case:
    """A case of a rule: to which parcels it applies, what is found then, and why."""

    applies: Bools
    """(P,)"""
    verdict: int
    evidence: Callable[[int], Mapping[str, Any]]
    """Returns the evidence of a parcel, given its place among the P."""
    confidence: Callable[[int], float] = lambda _: 1.0
    """Returns the confidence of a parcel's finding, given its place; asked only where the verdict has a colour."""


@dataclass(frozen=True)
class Decisions:
    """What a rule decides of P parcels."""

    rule: str
    """One of `RULES`, or the name of a policy's obligation."""
    cases: Sequence[Case]
    """The first that applies decides; the last applies to all."""
    departed_on: Days
    """(P,) since when a parcel departs; counts only where the verdict is yellow or red."""
    found: Found = field(init=False)
    _case: Ints = field(init=False)

    def __post_init__(self) -> None:
        case = np.argmax([one.applies for one in self.cases], axis=0)
        verdict = np.array([one.verdict for one in self.cases])[case]
        departed_on = np.where(verdict >= YELLOW, self.departed_on, np.datetime64("NaT"))
        object.__setattr__(self, "_case", case)
        object.__setattr__(self, "found", Found(verdict, departed_on))

    def finding(self, parcel: int) -> Finding:
        """Return what is found of one parcel, with its evidence."""
        outcome, colour = VERDICTS[self.found.verdict[parcel]]
        case, departed_on = self.cases[self._case[parcel]], self.found.departed_on[parcel].item()
        confidence = None if colour is None else round(case.confidence(parcel), 3)
        return Finding(self.rule, outcome, colour, confidence, departed_on, case.evidence(parcel))


def crop_mismatch(
    declared: Sequence[str | None], posterior: Posteriors | None, previous: Found, settings: RuleSettings
) -> Decisions:
    """Decide whether the declared class is nearly excluded and another likelier, and whether that holds some days later.

    Args:
        declared: (P,) class of the declared crop, None where nothing is declared.
        posterior: None where no classifier watches the season.
        previous: what was found before the acquisition.
        settings: thresholds.
    """
    rows = np.arange(len(declared))
    if posterior is None:
        unwatched = Case(rows >= 0, NOT_EXECUTED, because("no classifier watches this season"))
        return Decisions("crop_mismatch", [_undeclared(declared), unwatched], previous.departed_on)
    nr, best, of_declared, of_best = _compared(declared, posterior)
    is_sure = (of_declared < settings.mismatch_declared_below) & (of_best > settings.mismatch_other_above)
    is_late = _is_within(posterior.observed_to, settings.mismatch_late_from, settings.mismatch_confirm_until)
    is_sure |= (
        is_late & (of_declared < settings.mismatch_late_declared_below) & (of_best > settings.mismatch_late_other_above)
    )
    was_open = previous.verdict >= YELLOW
    is_held = was_open & (best != nr) & (of_declared < settings.mismatch_closed_above)
    since = np.where(was_open, previous.departed_on, posterior.observed_to)
    is_late_enough = posterior.observed_to - since >= np.timedelta64(settings.mismatch_confirm_days, "D")
    # In winter fields of all crops look alike, and a posterior that is sure then often stays so until they grow.
    is_growing = _is_within(posterior.observed_to, settings.mismatch_confirm_from, settings.mismatch_confirm_until)
    may_confirm = is_sure & is_late_enough & is_growing
    departs = is_sure | is_held

    def of_another(parcel: int) -> float:
        return float(1 - of_declared[parcel])

    def unknown_crop(parcel: int) -> Mapping[str, Any]:
        return {"reason": f"the classifier does not know the declared crop {declared[parcel]}"}

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            "declared": declared[parcel],
            "probability_of_declared": round(float(of_declared[parcel]), 4),
            "most_likely": posterior.classes[best[parcel]],
            "probability_of_most_likely": round(float(of_best[parcel]), 4),
            "n_observations": int(posterior.n_observations[parcel]),
            "observed_to": str(posterior.observed_to[parcel]),
            "thresholds": _thresholds(
                settings,
                "mismatch_declared_below",
                "mismatch_other_above",
                "mismatch_late_from",
                "mismatch_late_declared_below",
                "mismatch_late_other_above",
                "mismatch_closed_above",
                "mismatch_confirm_days",
                "mismatch_confirm_from",
                "mismatch_confirm_until",
                "mismatch_min_observations",
            ),
        }

    cases = [
        _undeclared(declared),
        Case(nr < 0, NOT_EXECUTED, unknown_crop),
        _too_few(posterior.n_observations, settings),
        Case(~departs, GREEN, evidence, lambda parcel: float(of_declared[parcel])),
        Case((previous.verdict == RED) | may_confirm, RED, evidence, of_another),
        Case(departs, YELLOW, evidence, of_another),
    ]
    return Decisions("crop_mismatch", cases, since)


def doubted(declared: Sequence[str | None], posterior: Posteriors, settings: RuleSettings) -> Bools:
    """Return (P,) where the declared class is unlikely and another likely: too little for a mismatch, too much to compare neighbours.

    Args:
        declared: (P,) as `crop_mismatch`.
        posterior: of each parcel the newest.
        settings: thresholds.
    """
    nr, _, of_declared, of_best = _compared(declared, posterior)
    is_unlikely = (of_declared < settings.doubt_declared_below) & (of_best > settings.doubt_other_above)
    return (nr >= 0) & is_unlikely & (posterior.n_observations >= settings.mismatch_min_observations)


def _compared(declared: Sequence[str | None], posterior: Posteriors) -> tuple[Ints, Ints, Floats, Floats]:
    """Return (P,) each: the declared class, -1 where the classifier does not know it, the likeliest, and the probabilities of both."""
    place = {name: nr for nr, name in enumerate(posterior.classes)}
    nr = np.array([-1 if one is None else place.get(one, -1) for one in declared], np.int64)
    best, rows = posterior.probabilities.argmax(axis=1), np.arange(len(nr))
    of_declared, of_best = (posterior.probabilities[rows, one].astype(np.float64) for one in (nr, best))
    return nr, best, of_declared, of_best


def _is_within(days: Days, *ends: str) -> Bools:
    """Return (N,) whether days lie from one month and day (MM-DD) of their year to another, both included."""
    month = days.astype("M8[M]")
    day = 100 * (month.astype(np.int64) % 12 + 1) + (days - month).astype(np.int64) + 1  # 501 is 1 May
    first, last = (int(one.replace("-", "")) for one in ends)
    return np.asarray((day >= first) & (day <= last))


def _first_after(days: Days, day_of_year: str) -> Days:
    """Return (N,) the first day of a month and day (MM-DD) that is not before each of the days (N,)."""
    month, day = map(int, day_of_year.split("-"))
    of_year = days.astype("M8[Y]").astype("M8[M]") + (month - 1)
    this, next_year = (one.astype("M8[D]") + (day - 1) for one in (of_year, of_year + 12))
    return np.where(this < days, next_year, this)


def nothing_observed(declared: Sequence[str | None], settings: RuleSettings) -> Decisions:
    """Return what `crop_mismatch` decides of parcels whose observations have all been withdrawn."""
    n_parcels = len(declared)
    unseen = _too_few(np.zeros(n_parcels, np.int64), settings)
    cases = [_undeclared(declared), Case(np.ones(n_parcels, bool), NOT_VALID, unseen.evidence)]
    return Decisions("crop_mismatch", cases, Found.nothing(n_parcels).departed_on)


def _undeclared(declared: Sequence[str | None]) -> Case:
    applies = np.array([one is None for one in declared], bool)
    return Case(applies, NOT_EXECUTED, because("nothing is declared"))


def _too_few(n_observations: Ints, settings: RuleSettings) -> Case:
    needed = settings.mismatch_min_observations
    return Case(
        n_observations < needed,
        NOT_VALID,
        lambda parcel: _lacking(f"{n_observations[parcel]} observations, {needed} needed"),
    )


def no_emergence(
    views: ClearViews, stands: CropStands, group: Ints, is_other_crop: Bools, settings: RuleSettings
) -> Decisions:
    """Decide whether a parcel is still bare long after the crop has come up on its neighbours, which lay bare before.

    Weeds come up, too. What is far below the closed canopy of the neighbours for weeks, and never was near it, has not emerged.

    Args:
        views: of P parcels.
        stands: how the parcels around stand.
        group: (P,) the group of each parcel's neighbours.
        is_other_crop: (P,) whether `crop_mismatch` departs: with neighbours of the declared crop nothing is compared then.
        settings: thresholds.
    """
    of, sown, harvest = views.parcel, stands.sown_on[group], stands.harvest_from[group]
    due = stands.stands_on[group] + np.timedelta64(settings.emergence_grace_days, "D")
    # A date that is not known is NaT, with which every comparison is false.
    of_crop = (views.days >= sown[of]) & ~(views.days >= harvest[of])
    since = of_crop & (views.days >= due[of])
    around = group[of], stands.place(group[of], views.days)
    median, share = stands.median_ndvi[around], stands.standing_share[around]
    level = np.where(since, np.fmax(VEGETATION_NDVI, median - settings.below_neighbours), VEGETATION_NDVI)
    stands_now = of_crop & (views.ndvi > level)
    bare = since & ~stands_now
    departed = departures(of, views.days, bare, stands_now, views.n_parcels)
    first_up, first_bare = views.first(stands_now), views.first(bare)
    # Once it has come up it has: what is lost later is of another rule.
    has_emerged = (departed.ended >= 0) | ((first_up >= 0) & ((first_up < first_bare) | (first_bare < 0)))
    is_closed = since & (median >= settings.closed_ndvi) & (share >= settings.standing_share)
    is_thin = is_closed & (views.ndvi < median - settings.below_closed)
    thin = departures(of, views.days, is_thin, is_closed & ~is_thin, views.n_parcels, at_least=3)
    is_weeds = has_emerged & (thin.ended < 0) & (thin.days > settings.closed_days)
    departed = departed.where(is_weeds, thin)
    has_emerged &= ~is_weeds

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            "emergence_due": str(due[parcel]),
            "bare_since": str(sown[parcel]),
            "neighbours": int(stands.n[group[parcel]]),
            "threshold_ndvi": VEGETATION_NDVI,
            "clear_views": views.shown(parcel, of_crop),
            "thresholds": _thresholds(
                settings,
                "neighbours_min",
                "seedbed_share",
                "standing_share",
                "emergence_grace_days",
                "below_neighbours",
                "closed_ndvi",
                "below_closed",
                "closed_days",
                "confirm_days",
            ),
        }

    def catch_crop(parcel: int) -> Mapping[str, Any]:
        return {"reason": f"what came up by {due[parcel]} came up after the harvest: a catch crop"}

    cases = [
        _other_crop(is_other_crop),
        _too_few_neighbours(stands, group, settings),
        Case(
            np.isnat(due), NOT_EXECUTED, because("the crop has not come up on the neighbours, or they were never bare")
        ),
        Case(due >= harvest, NOT_EXECUTED, catch_crop),
        Case(has_emerged, GREEN, evidence),
        Case(
            departed.n == 0,
            NOT_VALID,
            lambda parcel: _lacking(f"no clear view since {due[parcel]}, when emergence was due"),
        ),
        *_departures(departed, evidence, settings),
    ]
    return Decisions("no_emergence", cases, departed.first)


def early_loss(
    views: ClearViews,
    stands: CropStands,
    group: Ints,
    is_other_crop: Bools,
    is_new_stand: Bools,
    settings: RuleSettings,
) -> Decisions:
    """Decide whether a parcel has lost its canopy while nearly all neighbours of the same crop still have theirs.

    Args:
        views: of P parcels.
        stands: how the parcels around stand.
        group: (P,) the group of each parcel's neighbours.
        is_other_crop: (P,) as `no_emergence`.
        is_new_stand: (P,) whether the field bore another crop last season. Grassland that is sown anew is tilled while the
            old ones stand, so where the neighbours are never bare only what it shows in the growing months counts.
        settings: thresholds.
    """
    is_ley = is_new_stand & ~stands.is_ever_bare[group]
    grows_from = _first_after(stands.first_day[group], settings.mismatch_confirm_from)
    views = views.only(~is_ley[views.parcel] | (views.days >= grows_from[views.parcel]))
    of, harvest = views.parcel, stands.harvest_from[group]
    n_views = views.count(np.ones(len(of), bool))
    # Two green views before: one high value can be a neighbouring field's edge.
    was_green = views.before(views.ndvi >= settings.loss_from_ndvi) >= 2
    # Any vegetation since means not lost: a cloud missed in June must not join the bare soil after harvest.
    is_bare = was_green & (views.ndvi < LOSS_NDVI)
    # One low view alone is a cloud that the mask missed as often as a loss.
    lost = departures(of, views.days, is_bare, views.ndvi > VEGETATION_NDVI, views.n_parcels, at_least=2)
    lost_on = lost.first
    # To the eye the first fields of a harvest are lost, too: near it, it is no loss before neighbours have stood for as long as
    # a harvest takes. Measured by the parcel's own views, so that it does not matter when this is asked.
    is_harvested = stands.is_ever_bare[group] | ~np.isnat(harvest)
    is_near = is_harvested & ~(lost_on < harvest - np.timedelta64(settings.harvest_near_days, "D"))
    watched = np.where(is_near, settings.harvest_watch_days, settings.loss_watch_days).astype("m8[D]")
    until = lost_on + watched
    around = [stands.place(group, days) for days in (lost_on, until)]
    canopy, median = (
        np.minimum(*(one[group, place] for place in around)) for one in (stands.standing_share, stands.median_ndvi)
    )
    base = {
        "threshold_ndvi": LOSS_NDVI,
        "thresholds": _thresholds(
            settings,
            "neighbours_min",
            "loss_from_ndvi",
            "standing_share",
            "loss_neighbours_ndvi",
            "loss_watch_days",
            "harvest_near_days",
            "harvest_watch_days",
            "harvest_margin_days",
            "confirm_days",
        ),
    }

    def standing(parcel: int) -> dict[str, Any]:
        return base | {"neighbours": int(stands.n[group[parcel]])}

    def loss(parcel: int) -> dict[str, Any]:
        shown = np.arange(len(of)) >= lost.begin[parcel] - 2
        return standing(parcel) | {"lost_on": str(lost_on[parcel]), "clear_views": views.shown(parcel, shown)}

    def evidence(parcel: int) -> dict[str, Any]:
        return loss(parcel) | {
            "standing_share_of_neighbours": round(float(canopy[parcel]), 3),
            "median_ndvi_of_neighbours": round(float(median[parcel]), 3),
        }

    def may_be_harvest(parcel: int) -> dict[str, Any]:
        reason = f"the harvest may have begun: a loss if neighbours still stand on {until[parcel]}"
        return {**loss(parcel), **_lacking(reason)}

    cases = [
        _other_crop(is_other_crop),
        _too_few_neighbours(stands, group, settings),
        Case(
            is_ley & (n_views == 0),
            NOT_EXECUTED,
            because(f"sown anew among standing neighbours: judged by views from {settings.mismatch_confirm_from} on"),
        ),
        Case(n_views < 3, NOT_VALID, lambda parcel: _lacking(f"{n_views[parcel]} clear views, 3 needed")),
        Case(lost.n == 0, GREEN, standing),
        Case(
            lost_on >= harvest - np.timedelta64(settings.harvest_margin_days, "D"),
            GREEN,
            lambda parcel: loss(parcel) | {"harvest_from": str(harvest[parcel])},
        ),
        Case(
            ~np.isfinite(canopy),
            NOT_VALID,
            lambda parcel: {"reason": f"too few neighbours were seen around {lost_on[parcel]}"},
        ),
        Case((canopy < settings.standing_share) | (median < settings.loss_neighbours_ndvi), GREEN, evidence),
        Case(is_near & (lost.last < until), NOT_VALID, may_be_harvest),
        *_departures(lost, evidence, settings),
    ]
    return Decisions("early_loss", cases, lost_on)


def _other_crop(is_other_crop: Bools) -> Case:
    reason = "what grows is probably not the declared crop: judged by crop_mismatch"
    return Case(is_other_crop, NOT_EXECUTED, lambda _: {"reason": reason, JUDGED_BY: "crop_mismatch"})


def unless_undeclared(decisions: Decisions, declared: Sequence[str | None]) -> Decisions:
    """Return decisions among neighbours of one declared crop, of which those of parcels without one (P,) are not executed."""
    return Decisions(decisions.rule, [_undeclared(declared), *decisions.cases], decisions.departed_on)


def unless_doubted(decisions: Decisions, is_doubted: Bools, settings: RuleSettings) -> Decisions:
    """Return decisions on views of which the departures of some parcels (P,), see `doubted`, are not executed."""
    below, above = (f"{100 * one:g}%" for one in (settings.doubt_declared_below, settings.doubt_other_above))
    reason = (
        f"it departs from its neighbours, but may be another crop, which is left to crop_mismatch: the classifier gives the declared "
        f"one less than {below} and another more than {above}"
    )
    departs = is_doubted & (decisions.found.verdict >= YELLOW)
    silent = Case(departs, NOT_EXECUTED, lambda _: {"reason": reason, JUDGED_BY: "crop_mismatch"})
    return Decisions(decisions.rule, [silent, *decisions.cases], decisions.departed_on)


def _too_few_neighbours(stands: CropStands, group: Ints, settings: RuleSettings) -> Case:
    reason = f"fewer than {settings.neighbours_min} neighbours of the same declared crop"
    return Case(stands.n[group] < settings.neighbours_min, NOT_EXECUTED, because(reason))


def _departures(
    departed: Departures, evidence: Callable[[int], Mapping[str, Any]], settings: RuleSettings
) -> list[Case]:
    """Return the cases of a departure: yellow at first and where it recovers, red once a view `confirm_days` later says the same."""
    holds = departed.days > settings.confirm_days
    confidence = agreeing(departed.n)
    return [
        recovering(departed, evidence),
        Case(holds, RED, evidence, confidence),
        Case(~holds, YELLOW, evidence, confidence),
    ]


def recovering(departed: Departures, evidence: Callable[[int], Mapping[str, Any]]) -> Case:
    """Return the case of a departure that one view contradicts: right in about half of the doubtful cases, it halves the confidence."""
    confidence = agreeing(departed.n)
    return Case(
        departed.is_recovering,
        YELLOW,
        lambda parcel: {**evidence(parcel), **departed.evidence(parcel)},
        lambda parcel: confidence(parcel) / 2,
    )


def agreeing(n: Ints) -> Callable[[int], float]:
    """Return the confidence of n (P,) agreeing observations, 1 - 0.5^n: one is wrong in about half of the doubtful cases."""
    return lambda parcel: float(1 - 0.5 ** int(n[parcel]))


def _thresholds(settings: RuleSettings, *names: str) -> dict[str, float | str]:
    """Return the settings that a finding was decided with, under the names by which an agency sets them."""
    return {name: getattr(settings, name) for name in names}


def _lacking(reason: str) -> Mapping[str, Any]:
    """Return the evidence of a case that applies where too little is observed of the parcel itself."""
    return {"reason": reason, "lacks": LACKS_OBSERVATIONS}


def unseen(reason: str) -> Callable[[int], Mapping[str, Any]]:
    """Return the evidence of a case that has one such reason for all parcels."""
    return lambda _: _lacking(reason)


def because(reason: str) -> Callable[[int], Mapping[str, Any]]:
    """Return the evidence of a case that has one reason for all parcels."""
    return lambda _: {"reason": reason}
