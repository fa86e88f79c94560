"""The threshold of red with a bound on false reds: numbers that were worked out from the binomial."""

from math import log
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from monitor.errors import PolicyError
from monitor.policies import risk
from monitor.policies.risk import Chosen, Truth
from monitor.quality.estimates import clopper_pearson

pytest.importorskip("mapie", reason="the extra `calibrate` is not installed")


def truth(n: int, right: list[float], false: list[float], weight: float = 1.0, n_parcels: float | None = None) -> Truth:
    """Return n parcels with a verdict, of which some are red with these confidences."""
    confidence, departs = np.full(n, np.nan), np.ones(n, bool)
    confidence[: len(right) + len(false)] = [*right, *false]
    departs[len(right) : len(right) + len(false)] = False
    return Truth(confidence, departs, np.full(n, weight), n_parcels or n * weight)


def refusal(*given: Any) -> str:
    with pytest.raises(PolicyError) as caught:
        risk.choose(*given)
    return str(caught.value)


def test_without_a_false_red_the_number_that_is_needed_is_that_of_the_binomial() -> None:
    assert 0.999**2302 <= 0.1 < 0.999**2301
    assert risk.choose(truth(2302, [0.9, 0.95], []), 0.001, 0.9) == Chosen(0.9, 2302, 2, 0)
    said = refusal(truth(2301, [0.9, 0.95], []), 0.001, 0.9)
    assert said == (
        "the truth is too small for the guarantee: 2,301 parcels with a verdict, 2,302 needed; nothing is written"
    )


@pytest.mark.parametrize(("n", "above"), [(3888, 0.99), (3889, 0.9)])
def test_a_false_red_is_allowed_where_there_are_enough_verdicts(n: int, above: float) -> None:
    """One false red of 3,889 parcels: P(at most 1 of 3,889 at 0.001) = 0.09994."""
    assert (binom.cdf(1, n, 0.001) <= 0.1) == (above == 0.9)
    chosen = risk.choose(truth(n, [0.9, 0.99], [0.95]), 0.001, 0.9)
    assert chosen.above == above
    # The upper end of the interval of Clopper and Pearson says the same.
    assert clopper_pearson(chosen.n_false, n, 0.8)[1] <= 0.001


def test_levels_below_one_that_fails_are_not_tried() -> None:
    """Five false reds at 0.8; the true ones below cannot make up for them, since the loss only grows."""
    chosen = risk.choose(truth(5000, [0.99, 0.95, *[0.7] * 500], [0.8] * 5), 0.001, 0.9)
    assert (chosen.above, chosen.n_red, chosen.n_false) == (0.95, 2, 0)


def test_what_no_number_of_verdicts_can_promise_is_said() -> None:
    assert "no threshold on this rule's confidence" in refusal(truth(2400, [0.9, 0.99], [0.99] * 3), 0.001, 0.9)
    assert "if false reds stay as frequent" in refusal(truth(2400, [0.9, 0.99], [0.99]), 0.001, 0.9)
    assert "none of the 3,000 parcels with a verdict is red" in refusal(truth(3000, [], []), 0.001, 0.9)
    assert "none of the 0 parcels" in refusal(truth(0, [], []), 0.001, 0.9)


def test_parcels_of_a_sample_stand_for_their_strata() -> None:
    """100 of 2,000 departing parcels among 100,000: 100 false reds are allowed, so 5 % of those that depart."""
    assert 0.95**45 <= 0.1 < 0.95**44
    assert risk.choose(truth(45, [0.9] * 45, [], 2000 / 45, 100_000), 0.001, 0.9).above == 0.9
    assert "44 parcels with a verdict, 45 needed" in refusal(truth(44, [0.9] * 44, [], 2000 / 44, 100_000), 0.001, 0.9)


def test_where_reds_are_rare_half_of_them_must_still_be_right() -> None:
    """50 of 100,000 depart: all of them could be false without a rate above 0.001."""
    assert "no threshold" in refusal(truth(10, [0.9] * 4, [0.9] * 6, 5.0, 100_000), 0.001, 0.9)
    assert risk.choose(truth(10, [0.9] * 4, [], 5.0, 100_000), 0.001, 0.9).above == 0.9


def test_unequal_weights_count_by_the_heaviest() -> None:
    """Bentkus' factor of e: one parcel of weight 10 among those of weight 1, tested as if all were as heavy."""
    given = truth(40, [0.9] * 40, [], 1.0, 1000.0)
    weight = np.ones(40)
    weight[0] = 10.0
    at_most = 0.02 * 1000 / (40 * 10)
    needed = log(0.1) / log(1 - at_most)
    assert needed > 40
    unequal = Truth(given.confidence, given.departs, weight, 1000.0)
    assert f"{int(needed) + 1} needed" in refusal(unequal, 0.02, 0.9)
    assert risk.choose(given, 0.02, 0.9).above == 0.9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_promise_is_kept(seed: int) -> None:
    """Of 300 truths of 1,500 parcels no more than a tenth, and what chance adds, gets a threshold whose rate is above the risk."""
    rng = np.random.default_rng(seed)
    wrong = chosen = 0
    for _ in range(300):
        confidence = np.where(rng.random(1500) < 0.1, np.round(rng.random(1500), 2), np.nan)
        # Falsely red with probability 1 - confidence: the rate above a level c is 0.1 (1 - c)^2 / 2.
        departs = ~(rng.random(1500) < 1 - confidence)
        try:
            above = risk.choose(Truth(confidence, departs, np.ones(1500), 1500.0), 0.01, 0.9).above
        except PolicyError:
            continue
        chosen += 1
        wrong += 0.1 * (1 - above) ** 2 / 2 > 0.01
    assert chosen == 300
    assert wrong <= binom.ppf(0.999, 300, 0.1)
