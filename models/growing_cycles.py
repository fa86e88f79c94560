"""How many times a season's curve rises and falls: double crops, catch crops.

A cycle begins where the curve has risen from its lowest since the cycle before by the least amplitude, and ends where it has
fallen by as much from its highest. Its sd is half the difference of the counts at thresholds one sd lower and higher.
Source: chosen; a hysteresis, so that what rises and falls by less than the threshold is no cycle.
Shapes: P parcels on D days, NDVI (P, D), its median sd (P,).
Units:  NDVI dimensionless; cycles.
Errors: none.
"""

from typing import Final

import numpy as np

from models.ndvi.inputs import Floats

CYCLE_AMPLITUDE: Final = 0.15
"""NDVI that a cycle rises and falls by (as `PhenologyConfig.min_amplitude`)."""
CYCLE_STEP: Final = 6
"""Days between those on which cycles are counted: no crop grows and goes within a few."""


def growing_cycles(ndvi: Floats, median_sd: Floats) -> tuple[Floats, Floats]:
    """Return (P,) the number of cycles, and its sd: half of how much the threshold's sd changes it."""
    days = np.ascontiguousarray(ndvi[:, ::CYCLE_STEP].T, np.float32)
    doubt = np.sqrt(2) * median_sd
    least = CYCLE_AMPLITUDE + np.stack([0 * doubt, -np.minimum(doubt, 2 * CYCLE_AMPLITUDE / 3), doubt]).astype(
        np.float32
    )
    n = np.zeros(least.shape, np.int16)
    lowest, highest = np.broadcast_to(days[0], least.shape), np.broadcast_to(days[0], least.shape)
    is_up = np.zeros(least.shape, bool)
    for (
        value
    ) in days:  # over days, of all parcels at once: a cycle begins where the rise since the lowest is large enough
        lowest, highest = np.minimum(lowest, value), np.maximum(highest, value)
        begins, ends = ~is_up & (value - lowest >= least), is_up & (highest - value >= least)
        n += begins
        is_up = (is_up | begins) & ~ends
        highest, lowest = np.where(begins, value, highest), np.where(ends, value, lowest)
    return n[0], (n[1] - n[2]) / 2
