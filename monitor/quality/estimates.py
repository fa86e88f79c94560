"""Shares in a population from a stratified random sample, with intervals that hold at small numbers; agreement of reviewers.

    weight       w_i = N_h / n_h of the parcels of stratum h that have a verdict
    share        R = sum w_i y_i / sum w_i x_i           y: counted and hit, x: counted
    variance     V = sum_h (1 - f_h) n_h / (n_h - 1) sum (u_i - mean u)^2,    u_i = w_i (y_i - R x_i) / sum w x
    interval     Clopper and Pearson's of the effective number n = R (1 - R) / V; never more than were counted where few are hit or missed

Source: Cochran 1977, eq. 5A.50 (domains, linearised ratio); Korn and Graubard 1998, Survey Methodology 24 (the interval, with the factor
of their eq. for degrees of freedom); Kish 1965 (the effective number where nothing, or everything, is hit); Clopper and Pearson 1934;
Cohen 1960 (kappa). Intervals cover at least as often as stated, at small shares more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST: Final = 10
"""Verdicts below which no share is given: of 0 hits in 10 the interval reaches to 0.31 already."""


@dataclass(frozen=True)
class Share:
    """A share with its interval; of too few verdicts, only their number."""

    n: int
    """Parcels with a verdict that count in it."""
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> "Share":
        """Return the share in another unit, as per 1,000."""
        if self.value is None or self.low is None or self.high is None:
            return self
        return Share(self.n, self.value * factor, self.low * factor, self.high * factor)


def clopper_pearson(hits: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of which `hits` of `n` were seen; both may be effective numbers with a fraction."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits <= 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits >= n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def simple_share(hits: int, n: int, confidence: float) -> Share:
    """Return the share of n verdicts that belong to no sample."""
    return Share(n) if n < FEWEST else Share(n, hits / n, *clopper_pearson(hits, n, confidence))


@dataclass(frozen=True)
class Design:
    """How n parcels with a verdict stand for the population."""

    weight: Floats
    """(n,) parcels that each stands for."""
    group: Ints
    """(n,) the stratum, or the strata with one verdict each that are taken together: a variance needs two."""
    sampled_share: Floats
    """(n,) share of the group's parcels that have a verdict."""
    n_unseen: int
    """Parcels of lights of which no parcel has a verdict: no figure speaks of them."""


def design(stratum: Ints, population: Ints, light: Ints) -> Design:
    """Return how parcels with a verdict stand for their strata.

    A stratum without a verdict is represented by the others of its light: that supposes it to be like them.

    Args:
        stratum: (n,) of each parcel with a verdict.
        population: (H,) parcels of each stratum.
        light: (H,) a number for the light of each stratum.
    """
    answered = np.bincount(stratum, minlength=len(population))
    weight, group_of = np.zeros(len(population)), np.arange(len(population))
    n_unseen = 0
    for one in np.unique(light):
        its, seen = light == one, (light == one) & (answered > 0)
        if not seen.any():
            n_unseen += int(population[its].sum())
            continue
        weight[seen] = population[seen] / answered[seen] * (population[its].sum() / population[seen].sum())
        alone = np.flatnonzero(seen & (answered == 1) & (population > 1))
        if len(alone) == 1 and (several := np.flatnonzero(seen & (answered > 1))).size:
            alone = np.append(alone, several[np.argmin(population[several])])
        group_of[alone] = alone[0] if len(alone) else 0
    group = group_of[stratum]
    n_group = np.bincount(group, minlength=len(population))
    n_parcels = np.bincount(group, weights=weight[stratum], minlength=len(population))
    return Design(weight[stratum], group, (n_group / np.maximum(n_parcels, 1))[group], n_unseen)


def share(of: Design, hit: Floats, counted: Floats, confidence: float) -> Share:
    """Return the share of what is counted in the population that is hit.

    Args:
        of: how n parcels stand for the population.
        hit: (n,) amount that is hit: of each parcel 0 or 1, or 0 or hectares; never more than is counted.
        counted: (n,) amount that counts.
    """
    n = int((counted > 0).sum())
    total = float((of.weight * counted).sum())
    if n < FEWEST:
        return Share(n)
    value = min(float((of.weight * hit).sum()) / total, 1.0)
    variance, freedom = _variance(of, of.weight * (hit - value * counted) / total)
    amount = of.weight * counted
    effective = min(float(amount.sum() ** 2 / (amount**2).sum()), n)
    if of.sampled_share[counted > 0].min() >= 1 - 1e-9:
        return Share(n, value, value, value)
    if 0 < value < 1 and variance > 0:
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        t = float(stdtrit(max(freedom, 1), (1 + confidence) / 2))
        effective = value * (1 - value) / variance * (z / t) ** 2
        # What strata gain counts only where the variance rests on enough hits and misses: of few it may be small by chance.
        n_hit = int((hit[counted > 0] >= counted[counted > 0] / 2).sum())
        if min(n_hit, n - n_hit) < FEWEST:
            effective = min(effective, n)
    return Share(n, value, *clopper_pearson(value * effective, effective, confidence))


def _variance(of: Design, part: Floats) -> tuple[float, int]:
    """Return the variance of a sum over parcels, and its degrees of freedom."""
    groups, place, n = np.unique(of.group, return_inverse=True, return_counts=True)
    mean = np.bincount(place, part) / n
    squares = np.bincount(place, (part - mean[place]) ** 2)
    left = np.bincount(place, 1 - of.sampled_share) / n
    several = n > 1
    variance = float((left[several] * n[several] / (n[several] - 1) * squares[several]).sum())
    return variance, len(of.group) - len(groups)


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Cohen's kappa of two verdicts on each of n parcels; None where it is not defined: all are the same by chance alone."""
    names = sorted({*first, *second})
    counts = np.zeros((len(names), len(names)))
    for one, other in zip(first, second, strict=True):
        counts[names.index(one), names.index(other)] += 1
    together = counts / max(counts.sum(), 1)
    by_chance = float(together.sum(axis=1) @ together.sum(axis=0))
    return None if by_chance >= 1 else (float(np.trace(together)) - by_chance) / (1 - by_chance)
