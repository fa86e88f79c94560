"""Types of the arrays in which outlines are checked and measured, one entry per parcel."""

import numpy as np
import numpy.typing as npt

Geometries = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def masked(geometry: Geometries, is_hidden: Flags) -> Geometries:
    """Return a copy with None where hidden."""
    shown = geometry.copy()
    shown[is_hidden] = None
    return shown
