"""The rules: pure functions from what is known of a parcel to a finding.

A finding is NOT_EXECUTED (the rule does not apply), NOT_VALID (not enough evidence) or OK with a colour. No evidence is
never non-compliance, and only clear views count here: reconstructed NDVI alone never turns a parcel red.

    green   nothing departs
    yellow  first departure, dated, waiting for confirmation
    red     the departure holds on a later, independent observation

Source: Sen4CAP L4C markers for levels; each constant says where it comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["crop_mismatch", "no_emergence", "early_loss"]
Outcome = Literal["NOT_EXECUTED", "NOT_VALID", "OK"]
Colour = Literal["green", "yellow", "red"]
RULES: Final[tuple[Rule, ...]] = ("crop_mismatch", "no_emergence", "early_loss")
VERSION: Final = "1"
"""Stored with every finding; raised when a rule decides otherwise than before on the same evidence."""

VEGETATION_NDVI: Final = 0.35
"""Vegetation is present above it (Sen4CAP L4C)."""
LOSS_NDVI: Final = 0.30
"""Vegetation is lost below it: the strict end of the adaptive level 0.30 to 0.35 (Sen4CAP L4C)."""


VIEW_AGE_DAYS: Final = 30
"""A clear view older than that says nothing of a field's state today: a crop comes up or goes within a month."""


@dataclass(frozen=True)
class RuleSettings:
    """What an agency may turn; the defaults are chosen for few false reds."""

    mismatch_declared_below: float = 0.01
    """Posterior of the declared class below which it is doubted; with the next two chosen on a simulated season, where
    0.05, 0.80 and 10 days gave a precision of 0.33 and these 0.83 (docs/LOG.md)."""
    mismatch_other_above: float = 0.90
    """Posterior that another class must reach."""
    mismatch_confirm_days: int = 20
    """A mismatch is confirmed by an observation at least so much later."""
    mismatch_closed_above: float = 0.10
    """A mismatch ends when the declared class is likelier than that, or the likeliest: one wet week must not close it."""
    mismatch_min_observations: int = 20
    """Observations seen before the posterior is trusted; chosen as about two months of both sensors."""
    confirm_days: int = 10
    """A departure is confirmed by an observation at least so much later: two S2 cycles, so another cloud field."""
    neighbours_min: int = 8
    """Neighbours of the same declared crop needed to compare with; chosen because a 90 % share needs about ten."""
    standing_share: float = 0.90
    """Share of neighbours with a canopy at which the crop stands in the region."""
    seedbed_share: float = 0.20
    """Share of neighbours with a canopy at or below which the region's fields of the crop lie bare."""
    emergence_grace_days: int = 14
    """Days after the crop stands before a bare parcel departs: sowing within a region spreads over about two weeks."""
    below_neighbours: float = 0.35
    """NDVI below the neighbours' median that counts as bare though weeds grow; the level of vegetation itself."""
    loss_from_ndvi: float = 0.50
    """A canopy must have been this green before it can be lost: above half cover, so weeds do not count."""
    loss_watch_days: int = 10
    """The neighbours must still stand so long after the loss: else it is the first field of the harvest."""
    harvest_margin_days: int = 10
    """A loss so long before the last season's harvest, or later, is harvest: years differ by about ten days."""


@dataclass(frozen=True)
class ClearViews:
    """Clear Sentinel-2 views of a parcel, ascending in time."""

    days: NDArray[np.datetime64]
    """(N,) datetime64[D]."""
    ndvi: NDArray[np.float32]
    """(N,)"""


@dataclass(frozen=True)
class Neighbours:
    """How the parcels of one region and declared crop stand on each day of the season (the parcel itself included)."""

    n: int
    first_day: date
    standing_share: NDArray[np.float32]
    """(D,) share of parcels with a canopy; NaN where too few were seen in the last VIEW_AGE_DAYS."""
    median_ndvi: NDArray[np.float32]
    """(D,) median of their last clear views; NaN likewise."""
    harvest_from: date | None = None
    """When the harvest began in the season before, moved to this season; None where it is not known."""


@dataclass(frozen=True)
class Posterior:
    """The classifier's probabilities after a parcel's newest observation."""

    classes: Sequence[str]
    probabilities: NDArray[np.float32]
    n_observations: int
    observed_to: date


@dataclass(frozen=True)
class Finding:
    """The outcome of a rule for a parcel."""

    rule: Rule
    outcome: Outcome
    colour: Colour | None
    confidence: float | None
    departed_on: date | None
    evidence: Mapping[str, Any]


def crop_mismatch(
    declared: str | None, posterior: Posterior | None, previous: Finding | None, settings: RuleSettings
) -> Finding:
    """Return the declared class is improbable and another one is nearly sure, twice."""
    rule: Rule = "crop_mismatch"
    if declared is None:
        return _not(rule, "NOT_EXECUTED", "nothing is declared")
    if posterior is None:
        return _not(rule, "NOT_EXECUTED", "no classifier watches this season")
    if declared not in posterior.classes:
        return _not(rule, "NOT_EXECUTED", f"the classifier does not know the declared crop {declared}")
    if posterior.n_observations < settings.mismatch_min_observations:
        return _too_few(posterior.n_observations, settings)
    of_declared = float(posterior.probabilities[list(posterior.classes).index(declared)])
    best = int(np.argmax(posterior.probabilities))
    of_best = float(posterior.probabilities[best])
    is_sure = of_declared < settings.mismatch_declared_below and of_best > settings.mismatch_other_above
    was_open = previous is not None and previous.departed_on is not None
    is_held = was_open and posterior.classes[best] != declared and of_declared < settings.mismatch_closed_above
    evidence = {
        "declared": declared,
        "probability_of_declared": round(of_declared, 4),
        "most_likely": posterior.classes[best],
        "probability_of_most_likely": round(of_best, 4),
        "n_observations": posterior.n_observations,
        "observed_to": posterior.observed_to.isoformat(),
        "thresholds": _thresholds(
            settings,
            "mismatch_declared_below",
            "mismatch_other_above",
            "mismatch_closed_above",
            "mismatch_confirm_days",
            "mismatch_min_observations",
        ),
    }
    if not (is_sure or is_held):
        return Finding(rule, "OK", "green", round(of_declared, 3), None, evidence)
    first = previous.departed_on if previous is not None and previous.departed_on else posterior.observed_to
    is_late_enough = (posterior.observed_to - first).days >= settings.mismatch_confirm_days
    was_red = previous is not None and previous.colour == "red"
    colour: Colour = "red" if was_red or (is_sure and is_late_enough) else "yellow"
    return Finding(rule, "OK", colour, round(1 - of_declared, 3), first, evidence)


def nothing_observed(declared: str | None, settings: RuleSettings) -> Finding:
    """Return what `crop_mismatch` says of a parcel whose observations have all been withdrawn."""
    return _not("crop_mismatch", "NOT_EXECUTED", "nothing is declared") if declared is None else _too_few(0, settings)


def _too_few(n_observations: int, settings: RuleSettings) -> Finding:
    return _not(
        "crop_mismatch", "NOT_VALID", f"{n_observations} observations, {settings.mismatch_min_observations} needed"
    )


def no_emergence(views: ClearViews, neighbours: Neighbours | None, settings: RuleSettings) -> Finding:
    """Return the neighbours lay bare, the crop has long come up on them, and this parcel is still bare."""
    rule: Rule = "no_emergence"
    if neighbours is None or neighbours.n < settings.neighbours_min:
        return _not(rule, "NOT_EXECUTED", f"fewer than {settings.neighbours_min} neighbours of the same declared crop")
    share = neighbours.standing_share
    seedbed = np.flatnonzero(share <= settings.seedbed_share)
    stands = np.flatnonzero(share >= settings.standing_share)
    stands = stands[stands > seedbed[0]] if len(seedbed) else stands[:0]
    if len(stands) == 0:
        return _not(rule, "NOT_EXECUTED", "the crop has not come up on the neighbours, or they were never bare")
    sown = neighbours.first_day + timedelta(days=int(seedbed[seedbed < stands[0]][-1]))
    due = neighbours.first_day + timedelta(days=int(stands[0]) + settings.emergence_grace_days)
    if neighbours.harvest_from is not None and due >= neighbours.harvest_from:
        return _not(rule, "NOT_EXECUTED", f"what came up by {due} came up after the harvest: a catch crop")
    of_crop = views.days >= np.datetime64(sown)
    if neighbours.harvest_from is not None:
        of_crop &= views.days < np.datetime64(neighbours.harvest_from)
    since = of_crop & (views.days >= np.datetime64(due))
    level = np.full(len(views.days), VEGETATION_NDVI)
    level[since] = np.fmax(
        VEGETATION_NDVI, neighbours.median_ndvi[_at(neighbours, views.days[since])] - settings.below_neighbours
    )
    evidence: dict[str, Any] = {
        "emergence_due": due.isoformat(),
        "bare_since": sown.isoformat(),
        "neighbours": neighbours.n,
        "threshold_ndvi": VEGETATION_NDVI,
        "clear_views": _shown(views, of_crop),
        "thresholds": _thresholds(
            settings,
            "neighbours_min",
            "seedbed_share",
            "standing_share",
            "emergence_grace_days",
            "below_neighbours",
            "confirm_days",
        ),
    }
    if np.any(views.ndvi[of_crop] > level[of_crop]):
        return _green(rule, evidence)
    if not since.any():
        return _not(rule, "NOT_VALID", f"no clear view since {due}, when emergence was due")
    seen: date = views.days[since][-1].item()
    departed_on: date = views.days[since][0].item()
    return _departure(rule, departed_on, seen, int(since.sum()), evidence, settings)


def early_loss(views: ClearViews, neighbours: Neighbours | None, is_new_stand: bool, settings: RuleSettings) -> Finding:
    """Return a canopy was there and is gone while nearly all neighbours of the same crop still stand.

    Args:
        is_new_stand: the field bore another crop last season. A grassland sown anew is tilled while old ones stand: of a
            crop whose neighbours are never bare this rule then says nothing.
    """
    rule: Rule = "early_loss"
    if neighbours is None or neighbours.n < settings.neighbours_min:
        return _not(rule, "NOT_EXECUTED", f"fewer than {settings.neighbours_min} neighbours of the same declared crop")
    is_ever_bare = bool(np.any(neighbours.standing_share <= settings.seedbed_share))
    if is_new_stand and not is_ever_bare:
        return _not(rule, "NOT_EXECUTED", "sown anew among standing neighbours: last season's crop was another")
    if len(views.days) < 3:
        return _not(rule, "NOT_VALID", f"{len(views.days)} clear views, 3 needed")
    green = np.flatnonzero(views.ndvi >= settings.loss_from_ndvi)
    # Two green views: one high value can be a neighbouring field's edge.
    bare = np.flatnonzero(views.ndvi < LOSS_NDVI) if len(green) >= 2 else np.empty(0, np.int64)
    # Any vegetation since means not lost: a cloud missed in June must not join the bare soil after harvest.
    bare = bare[bare > np.flatnonzero(views.ndvi > VEGETATION_NDVI)[-1]] if len(bare) else bare
    evidence: dict[str, Any] = {
        "threshold_ndvi": LOSS_NDVI,
        "neighbours": neighbours.n,
        "thresholds": _thresholds(
            settings,
            "neighbours_min",
            "loss_from_ndvi",
            "standing_share",
            "loss_watch_days",
            "harvest_margin_days",
            "confirm_days",
        ),
    }
    if len(bare) < 2:  # one low view alone is a cloud that the mask missed as often as a loss
        return _green(rule, evidence)
    lost_on: date = views.days[bare[0]].item()
    evidence |= {
        "lost_on": lost_on.isoformat(),
        "clear_views": _shown(views, np.arange(len(views.days)) >= max(bare[0] - 2, 0)),
    }
    harvest = neighbours.harvest_from
    if harvest is not None and lost_on >= harvest - timedelta(days=settings.harvest_margin_days):
        return _green(rule, evidence | {"harvest_from": harvest.isoformat()})
    around = np.array([np.datetime64(lost_on), np.datetime64(lost_on) + settings.loss_watch_days])
    canopy = neighbours.standing_share[_at(neighbours, around)]
    if not np.isfinite(canopy).all():
        return _not(rule, "NOT_VALID", f"too few neighbours were seen around {lost_on}")
    evidence |= {"standing_share_of_neighbours": round(float(canopy.min()), 3)}
    if canopy.min() < settings.standing_share:
        return _green(rule, evidence)
    return _departure(rule, lost_on, views.days[bare[-1]].item(), len(bare), evidence, settings)


def _departure(
    rule: Rule, departed_on: date, seen_on: date, n_views: int, evidence: Mapping[str, Any], settings: RuleSettings
) -> Finding:
    """Yellow at first, red once a view `confirm_days` later says the same.

    Confidence 1 - 0.5^n of n agreeing views: a clear view is wrong in about half of the doubtful cases.
    """
    colour: Colour = "red" if (seen_on - departed_on).days >= settings.confirm_days else "yellow"
    return Finding(rule, "OK", colour, round(1 - 0.5**n_views, 3), departed_on, evidence)


def _thresholds(settings: RuleSettings, *names: str) -> dict[str, float]:
    """Return the settings that a finding was decided with, under the names by which an agency sets them."""
    return {name: getattr(settings, name) for name in names}


def _green(rule: Rule, evidence: Mapping[str, Any]) -> Finding:
    return Finding(rule, "OK", "green", 1.0, None, evidence)


def _not(rule: Rule, outcome: Outcome, reason: str) -> Finding:
    return Finding(rule, outcome, None, None, None, {"reason": reason})


def _at(neighbours: Neighbours, days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Places of days in the neighbours' arrays; days after the last known one take that."""
    place: NDArray[np.int64] = (days - np.datetime64(neighbours.first_day)).astype("m8[D]").astype(np.int64)
    return np.clip(place, 0, len(neighbours.standing_share) - 1)


def _shown(views: ClearViews, which: NDArray[np.bool_]) -> list[list[object]]:
    last = np.flatnonzero(which)[-6:]  # enough to defend the finding, short enough to read
    return [[str(views.days[i]), round(float(views.ndvi[i]), 3)] for i in last]


def neighbours_of(
    parcel: NDArray[np.int64],
    days: NDArray[np.datetime64],
    ndvi: NDArray[np.float32],
    first: date,
    last: date,
    settings: RuleSettings,
) -> Neighbours:
    """Return how parcels stand day by day, from clear views (N,) in any order.

    A parcel has a canopy on a day when the greener of its last two views, of at most VIEW_AGE_DAYS, shows vegetation: two,
    because the mask misses a cloud now and then.
    """
    keys, index = np.unique(parcel, return_inverse=True)
    n_days = (last - first).days + 1
    at = (days - np.datetime64(first)).astype("m8[D]").astype(np.int64)
    inside = (at >= 0) & (at < n_days)
    views = np.full((len(keys), n_days), np.nan, np.float32)
    np.fmax.at(views, (index[inside], at[inside]), ndvi[inside])
    today = np.arange(n_days)
    newest = np.maximum.accumulate(np.where(np.isfinite(views), today, -1), axis=1)  # (P, D) day of the last view
    # The view before the last: the last one as it stood the day before it.
    before = np.where(newest > 0, np.take_along_axis(newest, np.maximum(newest - 1, 0), axis=1), -1)

    def seen(day: NDArray[np.int64]) -> NDArray[np.float32]:
        is_recent = (day >= 0) & (today - day <= VIEW_AGE_DAYS)
        return np.where(is_recent, np.take_along_axis(views, np.maximum(day, 0), axis=1), np.float32(np.nan))

    best = np.fmax(seen(newest), seen(before))  # (P, D), NaN where a parcel was not seen lately
    n_seen = np.isfinite(best).sum(0)
    enough = n_seen >= max(settings.neighbours_min, len(keys) / 2)
    share, median = np.full(n_days, np.nan, np.float32), np.full(n_days, np.nan, np.float32)
    share[enough] = (best[:, enough] > VEGETATION_NDVI).sum(0) / n_seen[enough]
    if enough.any():
        median[enough] = np.nanmedian(best[:, enough], axis=0)
    return Neighbours(len(keys), first, share, median)


def harvest_day(standing_share: NDArray[np.float32], settings: RuleSettings) -> int | None:
    """Day on which the harvest of a season that is over began; None where the crop stood to the end, or never.

    The longest time that most fields stood ends with the harvest; it begins on the last day on which as many stood as in
    the middle of that time, less the share that may be lost early.
    Days without data count as crop while it lasts: cloud does not end a crop.
    """
    stands = np.concatenate([[False], ~(standing_share < 0.5), [False]])
    begins, ends = np.flatnonzero(~stands[:-1] & stands[1:]), np.flatnonzero(stands[:-1] & ~stands[1:])
    if len(begins) == 0:
        return None
    longest = int(np.argmax(ends - begins))
    begin, end = int(begins[longest]), int(ends[longest])
    share = standing_share[begin:end]
    if end > len(standing_share) - VIEW_AGE_DAYS or not np.isfinite(share).any():
        return None
    whole = float(np.nanmedian(share)) - (1 - settings.standing_share)
    return begin + int(np.flatnonzero(share >= whole)[-1]) + 1
