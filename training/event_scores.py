"""How well dated events are found: one-to-one matches within a tolerance, as many as there can be, and of those the nearest.

    precision = matched / found        recall = matched / true        F1 = 2 matched / (found + true)

Shapes: true events of a parcel are intervals (begin, end) in days, found ones days; an error is the days outside the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Days = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """A true event and the one that was found for it."""

    true: int
    found: int
    error: int
    """Days found after the interval (negative: before it)."""


@dataclass(frozen=True)
class EventScores:
    """Of all parcels together."""

    events: int
    found: int
    matched: int
    errors: tuple[int, ...]

    @property
    def precision(self) -> float | None:
        """Share of the found events that are true; None where nothing was found."""
        return self.matched / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """Share of the true events that were found; None where there are none."""
        return self.matched / self.events if self.events else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; None where there is neither a true nor a found event."""
        return 2 * self.matched / (self.events + self.found) if self.events + self.found else None

    @property
    def mean_absolute_day_error(self) -> float | None:
        """Of the matched ones; None where there are none."""
        return float(np.mean(np.abs(self.errors))) if self.errors else None

    @property
    def mean_day_error(self) -> float | None:
        """Positive: found too late."""
        return float(np.mean(self.errors)) if self.errors else None

    def as_json(self) -> dict[str, float | int | None]:
        """Return the scores by name, rounded."""
        rounded = {
            name: None if value is None else round(value, 4)
            for name, value in (
                ("precision", self.precision),
                ("recall", self.recall),
                ("f1", self.f1),
                ("mean_absolute_day_error", self.mean_absolute_day_error),
                ("mean_day_error", self.mean_day_error),
            )
        }
        return {**rounded, "events": self.events, "found": self.found, "matched": self.matched}


def matches(begin: Days, end: Days, found: Days, tolerance: int) -> list[Match]:
    """Return the largest set of pairs within a tolerance, of those the one with the least sum of errors.

    In order of time no two pairs of a best set cross, as errors are convex in the day; so a table over both, as for the longest common
    subsequence, holds the optimum. Intervals of a parcel must not lie in one another for that: reports of cuts do not.
    """
    rows, columns = np.lexsort((end, begin)), np.argsort(found, kind="stable")
    shape = (len(rows) + 1, len(columns) + 1)
    best, taken = np.zeros((*shape, 2), np.int64), np.zeros(shape, bool)  # pairs, minus their errors
    for i, row in enumerate(rows, 1):
        for j, column in enumerate(columns, 1):
            without = max(tuple(best[i - 1, j]), tuple(best[i, j - 1]))
            off = abs(_error(begin[row], end[row], found[column]))
            paired = (best[i - 1, j - 1, 0] + 1, best[i - 1, j - 1, 1] - off)
            taken[i, j] = off <= tolerance and paired > without
            best[i, j] = paired if taken[i, j] else without
    pairs, i, j = list[Match](), len(rows), len(columns)
    while i and j:
        if taken[i, j]:
            row, column = int(rows[i - 1]), int(columns[j - 1])
            pairs.append(Match(row, column, _error(begin[row], end[row], found[column])))
            i -= 1
            j -= 1
        elif tuple(best[i - 1, j]) >= tuple(best[i, j - 1]):
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _error(begin: np.int64, end: np.int64, found: np.int64) -> int:
    return max(int(found) - int(end), 0) - max(int(begin) - int(found), 0)


def total(parcels: Sequence[tuple[int, int, Sequence[Match]]]) -> EventScores:
    """Return the scores of parcels, each given as the number of true events, of found ones, and the matches."""
    every = [one for _, _, found in parcels for one in found]
    n_true, n_found = sum(n for n, _, _ in parcels), sum(n for _, n, _ in parcels)
    return EventScores(n_true, n_found, len(every), tuple(one.error for one in every))
