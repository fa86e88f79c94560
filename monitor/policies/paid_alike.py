"""Crops that are paid alike, taken together: no alert where one of them is taken for another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from monitor.alerts.rules import Posteriors
from monitor.policies.policy import PaidAlike


def taken_together(
    classes: Sequence[str], declared: Sequence[str | None], groups: Sequence[PaidAlike]
) -> tuple[list[str], list[str | None]]:
    """Return the name of the group, else its own, of each class and of each declared one."""
    group_of = {name: group.name for group in groups for name in group.classes}
    return [group_of.get(one, one) for one in classes], [one and group_of.get(one, one) for one in declared]


def summed(posteriors: Posteriors, names: Sequence[str]) -> Posteriors:
    """Return posteriors over the different names of classes: the probability of a name is the sum of those of its classes.

    Args:
        posteriors: over C classes.
        names: (C,) of each class.
    """
    if len(set(names)) == len(names):
        return posteriors
    classes = list(dict.fromkeys(names))
    member = np.array([[own == name for name in classes] for own in names], posteriors.probabilities.dtype)
    return replace(posteriors, classes=classes, probabilities=posteriors.probabilities @ member)
