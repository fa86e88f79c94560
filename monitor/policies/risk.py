"""The confidence from which a departure may be red, so that the rate of false reds is bounded: learn then test.

    loss of a parcel at a level   1 where the rule calls it red with at least this confidence and it does not depart, else 0
    rate                          the mean loss of all parcels: 0.001 is one false red in 1,000 parcels
    tested                        "the rate is above the risk", from the strictest level down, until one cannot be rejected
    chosen                        the lowest level before that: with the stated probability its rate is at most the risk

The loss never grows with the level, so testing in this fixed order needs no correction for the number of levels, and levels between
the confidences that were seen, with the same losses as those, need no test: the levels may be taken from the truth itself.
A sample with unequal weights: losses w / max w, whose mean is tested against the risk in the same unit. These are independent, in
[0, 1] and not equally distributed, for which Hoeffding's and Bentkus' inequalities hold too.

Source: Angelopoulos et al. 2021, Learn then Test (sections 3 and 5.1); Bates et al. 2021 (levels from the truth, monotone losses);
`mapie` for the p-values of Hoeffding and Bentkus, of losses 0 and 1 those of the binomial, and for the test in fixed order.
Shapes: n parcels with a verdict.
"""

from dataclasses import dataclass
from math import ceil, log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.errors import PolicyError

Floats = NDArray[np.float64]
MOST_FALSE: Final = 0.5
"""Share of the parcels with a verdict that may be false reds at most, where reds are so rare that the risk would allow more (chosen)."""


@dataclass(frozen=True)
class Truth:
    """Parcels with a verdict, arrays (n,), and what they stand for."""

    confidence: Floats
    """With which the rule calls a parcel red, NaN where it does not."""
    departs: NDArray[np.bool_]
    """Whether it departs as the rule claims."""
    weight: Floats
    """Parcels that each stands for."""
    n_parcels: float
    """Of all, also those that have no verdict because they cannot be red."""


@dataclass(frozen=True)
class Chosen:
    """A level, and what was seen at it."""

    above: float
    n: int
    n_red: int
    n_false: int


def choose(truth: Truth, risk: float, confidence: float) -> Chosen:
    """Return the lowest level at which the rate of false reds is at most the risk, with this confidence.

    Raises:
        PolicyError: the truth is too small, or its reds too often false, for any level; or `mapie` is not installed.
    """
    compute_p_values, control = _mapie()
    n, heaviest = len(truth.weight), float(truth.weight.max(initial=0.0))
    levels = np.unique(truth.confidence[np.isfinite(truth.confidence)])[::-1]
    if not len(levels):
        raise PolicyError(f"none of the {n:,} parcels with a verdict is red by this rule: there is no level to choose")
    at_most = min(risk * truth.n_parcels / (n * heaviest), MOST_FALSE)
    loss = np.where(truth.departs, 0.0, truth.weight / heaviest)
    rates = np.array([loss[truth.confidence >= level].sum() / n for level in levels])
    is_equal = bool((truth.weight == heaviest).all())
    # n times a rate of k / n can come out a little above k, and would be rounded up.
    p_values = compute_p_values(rates * (1 - 1e-12), n, at_most, is_equal)[:, 0]
    passed = control(p_values, 1 - confidence, "fixed_sequence")
    if not len(passed):
        raise PolicyError(_too_small(n, float(rates[0]), at_most, confidence))
    above = float(levels[passed[-1]])
    is_red = truth.confidence >= above
    return Chosen(above, n, int(is_red.sum()), int((is_red & ~truth.departs).sum()))


def _too_small(n: int, rate: float, at_most: float, confidence: float) -> str:
    """Return why no level has the guarantee, with the number of verdicts at which the strictest would have it."""
    if rate >= at_most:
        return (
            f"of {n:,} parcels with a verdict {1000 * rate:.3g} in 1,000 are falsely red even at the highest confidence, more than the "
            f"{1000 * at_most:.3g} that the risk allows: no threshold on this rule's confidence has the guarantee"
        )
    # Hoeffding's inequality, solved for n; exact where nothing is false: (1 - a)^n = 1 - confidence.
    divergence = (1 - rate) * log((1 - rate) / (1 - at_most)) + (rate * log(rate / at_most) if rate else 0.0)
    needed = ceil(-log(1 - confidence) / divergence)
    at_this = "" if rate == 0 else " if false reds stay as frequent at the highest confidence"
    return f"the truth is too small for the guarantee: {n:,} parcels with a verdict, {needed:,} needed{at_this}; nothing is written"


def _mapie() -> tuple[Any, Any]:
    try:
        from mapie.risk_control import control_fwer
        from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"choosing a threshold needs what is not installed here ({error.name}): "
            "pip install -e '.[calibrate]' in the project's folder"
        ) from error
    return compute_hoeffding_bentkus_p_value, control_fwer
