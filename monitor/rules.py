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
    emergence_share: float = 0.90
    """Share of neighbours that must have emerged before a bare parcel departs."""
    emergence_grace_days: int = 14
    """Days after that before a bare parcel departs: late sowing within a region spreads over about two weeks."""
    loss_share: float = 0.10
    """Largest share of neighbours without vegetation at which a loss is still early."""
    loss_from_ndvi: float = 0.50
    """A canopy must have been this green before it can be lost: above half cover, so weeds do not count."""


@dataclass(frozen=True)
class ClearViews:
    """Clear Sentinel-2 views of a parcel, ascending in time."""

    days: NDArray[np.datetime64]
    """(N,) datetime64[D]."""
    ndvi: NDArray[np.float32]
    """(N,)"""


@dataclass(frozen=True)
class Neighbours:
    """How parcels of the same region and declared crop stand on each day of the season (the parcel itself included)."""

    n: int
    first_day: date
    emerged_share: NDArray[np.float32]
    """(D,) share that has been above VEGETATION_NDVI in two clear views by that day."""
    lost_share: NDArray[np.float32]
    """(D,) share that has lost a canopy by that day."""


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
    """The neighbours of the same crop have long emerged and this parcel is still bare."""
    rule: Rule = "no_emergence"
    if neighbours is None or neighbours.n < settings.neighbours_min:
        return _not(rule, "NOT_EXECUTED", f"fewer than {settings.neighbours_min} neighbours of the same declared crop")
    emerged = np.flatnonzero(neighbours.emerged_share >= settings.emergence_share)
    if len(emerged) == 0:
        return _not(rule, "NOT_EXECUTED", f"less than {settings.emergence_share:.0%} of the neighbours have emerged")
    due = neighbours.first_day + timedelta(days=int(emerged[0]) + settings.emergence_grace_days)
    since = views.days >= np.datetime64(due)
    evidence: dict[str, Any] = {
        "emergence_due": due.isoformat(), "neighbours": neighbours.n, "threshold_ndvi": VEGETATION_NDVI,
        "clear_views": _shown(views, since),
    }  # fmt: skip
    if np.count_nonzero(views.ndvi > VEGETATION_NDVI) >= 2 or np.any(views.ndvi[since] > VEGETATION_NDVI):
        return _judge(rule, False, due, 0.9, evidence, previous, settings)
    if not since.any():
        return _not(rule, "NOT_VALID", f"no clear view since {due}, when emergence was due")
    n = int(np.count_nonzero(since))
    return _judge(
        rule, True, views.days[-1].item(), 1 - 0.5**n, evidence, previous, settings, views.days[since][0].item()
    )


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
    evidence: dict[str, Any] = {"threshold_ndvi": LOSS_NDVI, "neighbours": neighbours.n}
    # Two green views: one high value can be a neighbouring field's edge.
    bare = np.flatnonzero(views.ndvi < LOSS_NDVI) if len(green) >= 2 else np.empty(0, np.int64)
    bare = bare[bare > green[-1]] if len(bare) else bare  # green again means not lost
    if len(bare) == 0:
        return _judge(rule, False, views.days[-1].item(), 0.9, evidence, previous, settings)
    lost_on: date = views.days[bare[0]].item()
    share = _on(neighbours.lost_share, neighbours, lost_on)
    departs = share <= settings.loss_share
    evidence |= {"lost_on": lost_on.isoformat(), "lost_share_of_neighbours": round(share, 3),
                 "clear_views": _shown(views, np.arange(len(views.days)) >= max(bare[0] - 2, 0))}  # fmt: skip
    return _judge(
        rule, departs, views.days[bare[-1]].item(), 1 - 0.5 ** len(bare), evidence, previous, settings, lost_on
    )


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


def _on(share: NDArray[np.float32], neighbours: Neighbours, day: date) -> float:
    return float(share[np.clip((day - neighbours.first_day).days, 0, len(share) - 1)])


def _shown(views: ClearViews, which: NDArray[np.bool_]) -> list[list[object]]:
    last = np.flatnonzero(which)[-6:]  # enough to defend the finding, short enough to read
    return [[str(views.days[i]), round(float(views.ndvi[i]), 3)] for i in last]


def neighbours_of(parcel: NDArray[np.int64], days: NDArray[np.datetime64], ndvi: NDArray[np.float32], first: date, last: date,
                  settings: RuleSettings) -> Neighbours:  # fmt: skip
    """Shares of emerged and lost parcels by day, from clear views (N,) of parcels sorted by parcel and day."""
    keys, index = np.unique(parcel, return_inverse=True)
    n_days = (last - first).days + 1
    at = np.clip((days - np.datetime64(first)).astype(int), 0, n_days - 1)
    emerged_on = _nth_day(index, at, ndvi > VEGETATION_NDVI, len(keys), 2, n_days)
    green_on = _nth_day(index, at, ndvi >= settings.loss_from_ndvi, len(keys), 2, n_days)
    lost_on = _nth_day(index, at, (ndvi < LOSS_NDVI) & (at > green_on[index]), len(keys), 1, n_days)
    day = np.arange(n_days)[:, None]
    return Neighbours(
        len(keys), first,
        (emerged_on <= day).mean(1, dtype=np.float32), (lost_on <= day).mean(1, dtype=np.float32),
    )  # fmt: skip


def _nth_day(
    index: NDArray[np.int64], at: NDArray[np.int64], holds: NDArray[np.bool_], n: int, nth: int, never: int
) -> NDArray[np.int64]:
    """(n,) the day of the nth time it holds for each parcel; `never` where it does not."""
    out = np.full(n, never)
    where = np.flatnonzero(holds)
    if len(where):
        owner = index[where]
        starts = np.searchsorted(owner, np.arange(n))
        counts = np.bincount(owner, minlength=n)
        enough = counts >= nth
        out[enough] = at[where[starts[enough] + nth - 1]]
    return out
