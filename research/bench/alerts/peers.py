"""What peers are asked: a score of each parcel that rises over the season, and the threshold at which it is an alert.

    alert      the first day on which the score reaches the threshold, one a parcel and season
    threshold  the one of highest F1 on the season of another seed, for all kinds of event and for those of each rule

A peer has no rules. For a rule it is given the kinds that the rule answers, and its alerts on parcels where something else happened
are left out: they are neither right nor wrong.
Shapes: P parcels, T days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from monitor.alerts.neighbours import Bools, Days
from research.bench.alerts.figures import ANSWERABLE, dated, f1
from research.experiments.forest import Floats
from research.seasons.evaluate import ANSWERING, ANSWERS
from training.metrics import AlertScores, Event, Raised, score_alerts

ALL: Final = "all"
KINDS: Final[Mapping[str, frozenset[str]]] = {ALL: ANSWERABLE} | {rule: frozenset(ANSWERS[rule]) for rule in ANSWERING}
"""What is asked of a peer: everything that some rule answers, and what each rule does."""
_TRIED: Final = 80
"""Thresholds that are tried: as many quantiles of the upper half of the last scores."""


@dataclass(frozen=True)
class Process:
    """The score of a peer."""

    days: Days
    """(T,) ascending."""
    score: Floats
    """(P, T); NaN before anything is known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", np.fmax.accumulate(self.score, axis=1))

    def raised(self, ids: Sequence[str], threshold: float) -> list[Raised]:
        """Return the alerts that a threshold makes."""
        reaches: Bools = np.asarray(self.score >= threshold)
        first = reaches.argmax(axis=1)
        return [
            Raised(ids[nr], "peer", pd.Timestamp(self.days[first[nr]]).date())
            for nr in np.flatnonzero(reaches.any(axis=1)).tolist()
        ]


def scored(events: Sequence[Event], raised: Sequence[Raised], kinds: frozenset[str]) -> AlertScores:
    """Return the scores of a peer's alerts against events of some kinds."""
    own = [one for one in events if one.kind in kinds]
    with_own = {one.parcel_id for one in own}
    other = {one.parcel_id for one in events} - with_own
    return score_alerts(own, dated([one for one in raised if one.parcel_id not in other], own), {"peer": kinds})


def first_of_each(raised: Sequence[Raised]) -> list[Raised]:
    """Return the first alert of each parcel, as if a peer had raised it."""
    later_first = sorted(raised, key=lambda one: one.raised_on, reverse=True)
    return [replace(one, rule="peer") for one in {one.parcel_id: one for one in later_first}.values()]


def threshold(
    process: Process, ids: Sequence[str], events: Sequence[Event], kinds: frozenset[str]
) -> tuple[float, float]:
    """Return the threshold of highest F1 against events of some kinds, and that F1."""
    last = process.score[:, -1]
    last = last[np.isfinite(last)]
    # The upper half: more alerts than parcels with an event many times over.
    tried = np.unique(np.quantile(last, 1 - 0.5 * np.linspace(0, 1, _TRIED) ** 2))
    found = [f1(scored(events, process.raised(ids, one), kinds)) for one in tried.tolist()]
    best = int(np.nanargmax(found)) if np.isfinite(found).any() else -1
    return float(tried[best]), found[best]
