"""Stratified random samples of parcels: how many, how many of each stratum, and which; all reproducible from a seed.

    stratum      light x crop; rare crops share one stratum of each light
    variance     V = sum_h W_h^2 S_h^2 / n_h (1 - n_h / N_h),    W_h = N_h / N,  S_h^2 = p_h (1 - p_h)
    proportional n_h = n W_h                    n = sum W S^2 / (V + sum W S^2 / N)
    Neyman       n_h = n W_h S_h / sum W S      n = (sum W S)^2 / (V + sum W S^2 / N)

p_h is the share of wrong lights that is expected in a stratum; the half-width e that is wanted of the share of wrong lights among
all parcels gives V = (e / z)^2.
Source: Cochran 1977, Sampling Techniques, eq. 5.6, 5.25, 5.26 and section 5.9.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Allocation = Literal["proportional", "neyman"]
Stratum = tuple[str, str | None]
"""Light and crop; None for all crops without a stratum of their own."""
Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

EXPECTED_WRONG: Final[Mapping[str, float]] = {
    "red": 0.3,
    "yellow": 0.5,
    "suppressed": 0.05,  # counts as wrong in no figure; drawn as green ones are
    "green": 0.05,
    "not_valid": 0.1,
    "not_executed": 0.1,
}
"""Share of wrong lights that is expected, by light; chosen with caution: half of one agency's wrong-crop notices were rejected, and
nobody has ever counted its false greens. What is expected decides the size alone, never the figures."""


def strata(lights: Sequence[str], crops: Sequence[str | None], n_crops: int) -> list[Stratum]:
    """Return the stratum of each parcel: the `n_crops` most frequent crops have their own, the others share one of each light."""
    frequent = sorted(Counter(one for one in crops if one is not None).items(), key=lambda found: (-found[1], found[0]))
    own = {crop for crop, _ in frequent[:n_crops]}
    return [(light, crop if crop in own else None) for light, crop in zip(lights, crops, strict=True)]


def size(population: Ints, wrong: Floats, half_width: float, confidence: float, allocation: Allocation) -> int:
    """Return how many parcels give the half-width that is wanted.

    Args:
        population: (H,) parcels of each stratum.
        wrong: (H,) share of wrong lights expected in each.
        half_width: of the confidence interval of the share of wrong lights among all parcels.
    """
    share, spread = population / population.sum(), np.sqrt(wrong * (1 - wrong))
    variance = (half_width / NormalDist().inv_cdf((1 + confidence) / 2)) ** 2
    within = float((share * spread**2).sum())
    needed = within if allocation == "proportional" else float((share * spread).sum()) ** 2
    n = needed / (variance + within / population.sum())
    return int(min(np.ceil(n), population.sum()))


def allocate(population: Ints, wrong: Floats, n: int, allocation: Allocation, minimum: int) -> Ints:
    """Return (H,) how many of n parcels fall to each stratum: at least `minimum`, or all where there are fewer.

    So more than n are drawn where many strata need the minimum.
    """
    weight: Floats = population * (np.sqrt(wrong * (1 - wrong)) if allocation == "neyman" else np.ones(len(wrong)))
    least = np.minimum(population, minimum)
    drawn: Ints = np.maximum(_shares(weight, n), least)
    # A stratum that is drawn whole leaves the rest of its share to the others; each turn fills one more, or is the last.
    for _ in range(len(population)):
        if not (over := drawn > population).any():
            break
        is_full = over | (drawn == population)
        spare = int((drawn - population)[over].sum())
        drawn = np.minimum(drawn, population)
        drawn += _shares(np.where(is_full, 0.0, weight), spare)
    return np.minimum(drawn, population)


def _shares(weight: Floats, n: int) -> Ints:
    """Return n shared out by weight in whole numbers, the largest remainders rounded up; nothing where there is no weight."""
    if weight.sum() == 0:
        return np.zeros(len(weight), np.int64)
    exact = n * weight / weight.sum()
    whole: Ints = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: n - int(whole.sum())]
    whole[rest] += 1
    return whole


def draw(ids: Sequence[str], of: Sequence[Stratum], n_of: Mapping[Stratum, int], seed: str) -> list[int]:
    """Return the places of the parcels that are drawn, in a random order that says nothing of their strata.

    The lowest numbers of a stratum are drawn. A parcel's number is the SHA-256 of seed and id, so that anybody can draw again,
    with any program, and a larger sample of the same seed holds the smaller one.
    """
    number = [_number(seed, one) for one in ids]
    left, drawn = dict(n_of), list[int]()
    for place in sorted(range(len(ids)), key=number.__getitem__):
        if left.get(of[place], 0) > 0:
            left[of[place]] -= 1
            drawn.append(place)
    # By another number: the first of a stratum that is drawn whole would stand late, of a large one early.
    return sorted(drawn, key=lambda place: _number(f"{seed} order", ids[place]))


def _number(seed: str, source_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{source_id}".encode()).digest()


def half_width(population: Ints, wrong: Floats, drawn: Ints, confidence: float) -> float:
    """Return the half-width that an allocation gives if the lights are as wrong as expected."""
    share, spread = population / population.sum(), wrong * (1 - wrong)
    some = drawn > 0
    variance = float((share[some] ** 2 * spread[some] / drawn[some] * (1 - drawn[some] / population[some])).sum())
    return NormalDist().inv_cdf((1 + confidence) / 2) * float(np.sqrt(variance))
