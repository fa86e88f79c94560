"""Sixteen by sixteen fields of three crops, seen by radar from two orbits: what is low on which pass."""

from collections.abc import Callable
from typing import Final

import numpy as np

SIDE: Final = 16
SPACING_M: Final = 130.0
CROPS: Final = ("beet", "maize", "wheat")
ORBITS: Final = (15, 88)
PASSES: Final = tuple((day, ORBITS[nr % 2]) for nr, day in enumerate(range(0, 48, 3)))
"""Day and orbit."""
FLOODED_FROM, FLOODED_UNTIL = 26, 40
LAND, WATER = (-10.0, -17.0), (-16.0, -24.0)
"""VV and VH in dB."""
IsLow = Callable[[int, int], bool]
"""Whether the field of a column and row is low while the water stands."""


def crop(x: int, y: int) -> str:
    return CROPS[(x + 2 * y) % 3]


def hollow(x: int, y: int) -> bool:
    """Say whether a field lies in the hollow: sixteen fields that adjoin, of all crops."""
    return 5 <= x < 9 and 5 <= y < 9


def campaign(x: int, y: int) -> bool:
    """Say whether a field has a seedbed: beet is sown in the whole region."""
    return crop(x, y) == "beet"


def dry(x: int, y: int) -> bool:
    """Say whether a field falls on a dry and calm day: most do."""
    return (3 * x + 5 * y) % 10 < 8


def one_farm(x: int, y: int) -> bool:
    """Say whether a field is of a farm that rolls its beet: some that lie near one another."""
    return crop(x, y) == "beet" and 4 <= x < 8 and 4 <= y < 8


def alone(x: int, y: int) -> bool:
    return (x, y) == (6, 6)


def fields() -> list[tuple[int, int]]:
    return [(x, y) for x in range(SIDE) for y in range(SIDE)]


def backscatter(is_low: IsLow, day: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return VV and VH in dB of all fields at a pass, (P, 2)."""
    stands = FLOODED_FROM <= day <= FLOODED_UNTIL
    return np.array([WATER if stands and is_low(x, y) else LAND for x, y in fields()])
