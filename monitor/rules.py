"""The rules: pure functions from what is known of a parcel to a finding.

A finding is NOT_EXECUTED (the rule does not apply), NOT_VALID (not enough evidence) or OK with a colour. No evidence is
never non-compliance, and only clear views count here: reconstructed NDVI alone never turns a parcel red.

    green   nothing departs
    yellow  first departure, dated, waiting for confirmation
    red     the departure holds on a later, independent observation

Source: DESIGN section 8 (Sen4CAP L4C markers) for levels; each constant says where it comes from.
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

VEGETATION_NDVI: Final = 0.35
"""Vegetation is present above it (Sen4CAP L4C)."""
LOSS_NDVI: Final = 0.30
"""Vegetation is lost below it: the strict end of the adaptive level 0.30 to 0.35 (Sen4CAP L4C)."""


VIEW_AGE_DAYS: Final = 30
"""A clear view older than that says nothing of a field's state today: a crop comes up or goes within a month."""


@dataclass(frozen=True)
class RuleSettings:
    """What an agency may turn; the defaults are chosen for few false reds."""

    mismatch_declared_below: float = 0.05
    """Posterior of the declared class below which it is doubted; chosen because calibrated 5 % is the usual error level."""
    mismatch_other_above: float = 0.80
    """Posterior that another class must reach; chosen because a third of "incorrect crop" notices prove wrong at less."""
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
    """A classifier's belief."""

    classes: Sequence[str]
    probabilities: NDArray[np.float32]
    n_observations: int
    observed_to: date


@dataclass(frozen=True)
class Finding:
    """What a rule says of a parcel."""

    rule: Rule
    outcome: Outcome
    colour: Colour | None
    confidence: float | None
    departed_on: date | None
    evidence: Mapping[str, Any]


def crop_mismatch(
    declared: str | None, posterior: Posterior | None, previous: Finding | None, settings: RuleSettings
) -> Finding:
    """The declared class is improbable and another one is nearly sure, twice."""
    rule: Rule = "crop_mismatch"
    if declared is None:
        return _not(rule, "NOT_EXECUTED", "nothing is declared")
    if posterior is None:
        return _not(rule, "NOT_EXECUTED", "no classifier watches this season")
    if declared not in posterior.classes:
        return _not(rule, "NOT_EXECUTED", f"the classifier does not know the declared crop {declared}")
    if posterior.n_observations < settings.mismatch_min_observations:
        return _not(
            rule, "NOT_VALID", f"{posterior.n_observations} observations, {settings.mismatch_min_observations} needed"
        )
    of_declared = float(posterior.probabilities[list(posterior.classes).index(declared)])
    best = int(np.argmax(posterior.probabilities))
    of_best = float(posterior.probabilities[best])
    departs = of_declared < settings.mismatch_declared_below and of_best > settings.mismatch_other_above
    evidence = {
        "declared": declared, "probability_of_declared": round(of_declared, 4),
        "most_likely": posterior.classes[best], "probability_of_most_likely": round(of_best, 4),
        "n_observations": posterior.n_observations, "observed_to": posterior.observed_to.isoformat(),
        "thresholds": {"declared_below": settings.mismatch_declared_below, "other_above": settings.mismatch_other_above},
    }  # fmt: skip
    return _judge(rule, departs, posterior.observed_to, 1 - of_declared, evidence, previous, settings)


def no_emergence(
    views: ClearViews, neighbours: Neighbours | None, previous: Finding | None, settings: RuleSettings
) -> Finding:
    """The neighbours lay bare, the crop has long come up on them, and this parcel is still bare."""
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
        "emergence_due": due.isoformat(), "bare_since": sown.isoformat(), "neighbours": neighbours.n,
        "threshold_ndvi": VEGETATION_NDVI, "clear_views": _shown(views, of_crop),
    }  # fmt: skip
    if np.any(views.ndvi[of_crop] > level[of_crop]):
        return _judge(rule, False, due, 0.9, evidence, previous, settings)
    if not since.any():
        return _not(rule, "NOT_VALID", f"no clear view since {due}, when emergence was due")
    seen: date = views.days[since][-1].item()
    return _judge(rule, True, seen, _by_views(since.sum()), evidence, previous, settings, views.days[since][0].item())


def early_loss(
    views: ClearViews, neighbours: Neighbours | None, previous: Finding | None, settings: RuleSettings
) -> Finding:
    """A canopy was there and is gone while nearly all neighbours of the same crop still stand."""
    rule: Rule = "early_loss"
    if neighbours is None or neighbours.n < settings.neighbours_min:
        return _not(rule, "NOT_EXECUTED", f"fewer than {settings.neighbours_min} neighbours of the same declared crop")
    if len(views.days) < 3:
        return _not(rule, "NOT_VALID", f"{len(views.days)} clear views, 3 needed")
    green = np.flatnonzero(views.ndvi >= settings.loss_from_ndvi)
    # Two green views: one high value can be a neighbouring field's edge.
    bare = np.flatnonzero(views.ndvi < LOSS_NDVI) if len(green) >= 2 else np.empty(0, np.int64)
    bare = bare[bare > green[-1]] if len(bare) else bare  # green again means not lost
    evidence: dict[str, Any] = {"threshold_ndvi": LOSS_NDVI, "neighbours": neighbours.n}
    last_seen: date = views.days[-1].item()
    if len(bare) < 2:  # one low view alone is a cloud that the mask missed as often as a loss
        return _judge(rule, False, last_seen, 0.9, evidence, previous, settings)
    lost_on: date = views.days[bare[0]].item()
    evidence |= {
        "lost_on": lost_on.isoformat(),
        "clear_views": _shown(views, np.arange(len(views.days)) >= max(bare[0] - 2, 0)),
    }
    harvest = neighbours.harvest_from
    if harvest is not None and lost_on >= harvest - timedelta(days=settings.harvest_margin_days):
        return _judge(rule, False, last_seen, 0.9, evidence | {"harvest_from": harvest.isoformat()}, previous, settings)
    around = np.array([np.datetime64(lost_on), np.datetime64(lost_on) + settings.loss_watch_days])
    standing = neighbours.standing_share[_at(neighbours, around)]
    if not np.isfinite(standing).all():
        return _not(rule, "NOT_VALID", f"too few neighbours were seen around {lost_on}")
    evidence |= {"standing_share_of_neighbours": round(float(standing.min()), 3)}
    departs = bool(standing.min() >= settings.standing_share)
    seen: date = views.days[bare[-1]].item()
    return _judge(rule, departs, seen, _by_views(len(bare)), evidence, previous, settings, lost_on)


def _judge(
    rule: Rule, departs: bool, seen_on: date, confidence: float, evidence: Mapping[str, Any], previous: Finding | None,
    settings: RuleSettings, departed_on: date | None = None,
) -> Finding:  # fmt: skip
    """Green, yellow at the first departure, red once it holds `confirm_days` later."""
    if not departs:
        return Finding(rule, "OK", "green", round(confidence, 3), None, evidence)
    first = departed_on or (previous.departed_on if previous is not None and previous.departed_on else seen_on)
    colour: Colour = "red" if (seen_on - first).days >= settings.confirm_days else "yellow"
    return Finding(rule, "OK", colour, round(confidence, 3), first, evidence)


def _not(rule: Rule, outcome: Outcome, reason: str) -> Finding:
    return Finding(rule, outcome, None, None, None, {"reason": reason})


def _at(neighbours: Neighbours, days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Places of days in the neighbours' arrays; days after the last known one take that."""
    place: NDArray[np.int64] = (days - np.datetime64(neighbours.first_day)).astype("m8[D]").astype(np.int64)
    return np.clip(place, 0, len(neighbours.standing_share) - 1)


def _by_views(n: int) -> float:
    """Confidence by the number of clear views that agree: each is wrong in about half of the doubtful cases."""
    return float(1 - 0.5 ** int(n))


def _shown(views: ClearViews, which: NDArray[np.bool_]) -> list[list[object]]:
    last = np.flatnonzero(which)[-6:]  # enough to defend the finding, short enough to read
    return [[str(views.days[i]), round(float(views.ndvi[i]), 3)] for i in last]


def neighbours_of(
    parcel: NDArray[np.int64], days: NDArray[np.datetime64], ndvi: NDArray[np.float32], first: date, last: date,
    settings: RuleSettings,
) -> Neighbours:  # fmt: skip
    """How parcels stand day by day, from clear views (N,) in any order.

    A parcel has a canopy on a day when the greener of its last two views, of at most VIEW_AGE_DAYS, shows vegetation: two,
    because the mask misses a cloud now and then.
    """
    keys, index = np.unique(parcel, return_inverse=True)
    n_days = (last - first).days + 1
    at = (days - np.datetime64(first)).astype("m8[D]").astype(np.int64)
    inside = (at >= 0) & (at < n_days)
    views = np.full((len(keys), n_days), np.nan, np.float32)
    np.fmax.at(views, (index[inside], at[inside]), ndvi[inside])
    standing, median = np.full(n_days, np.nan, np.float32), np.full(n_days, np.nan, np.float32)
    last_view, view_before = (np.full(len(keys), np.nan, np.float32) for _ in range(2))
    seen_on, seen_before = (np.full(len(keys), -n_days - VIEW_AGE_DAYS) for _ in range(2))
    for day in range(n_days):
        new = np.isfinite(views[:, day])
        view_before[new], seen_before[new] = last_view[new], seen_on[new]
        last_view[new], seen_on[new] = views[new, day], day
        is_seen = day - seen_on <= VIEW_AGE_DAYS
        best = np.where(day - seen_before <= VIEW_AGE_DAYS, np.fmax(last_view, view_before), last_view)[is_seen]
        if len(best) >= max(settings.neighbours_min, len(keys) / 2):
            standing[day], median[day] = (best > VEGETATION_NDVI).mean(), np.median(best)
    return Neighbours(len(keys), first, standing, median)


def harvest_day(standing_share: NDArray[np.float32], settings: RuleSettings) -> int | None:
    """Day on which the longest time that the crop stood ended; None where it stood to the end, or never.

    Days of which nothing is known count as standing while it lasts: cloud does not end a crop.
    """
    stands = np.concatenate([[False], ~(standing_share < settings.standing_share), [False]])
    begins, ends = np.flatnonzero(~stands[:-1] & stands[1:]), np.flatnonzero(stands[:-1] & ~stands[1:])
    if len(begins) == 0:
        return None
    longest = int(np.argmax(ends - begins))
    is_open = ends[longest] > len(standing_share) - VIEW_AGE_DAYS
    return None if is_open else int(ends[longest])
