"""Surface reflectance of a field in the ten Sentinel-2 bands.

    R_b = R8_b + (Rg_b - R8_b) exp(-K_b (L + B))        R8: canopy without end, Rg: ground, L green and B brown area

(Baret and Guyot 1991, Remote Sensing of Environment 35, 161-173: reflectance saturates exponentially with leaf area,
fast where leaves absorb, slowly where they scatter.) R8 mixes leaves, cover, flowers and dead parts by their area; the
ground darkens with wetness. Shapes: parcels P, pixels S, bands 10 in the order of BANDS. Units: reflectance 0..1.
"""

import numpy as np
from numpy.typing import NDArray

from research.simulator.crops import CROPS
from research.simulator.growth import FieldStates

Float32 = NDArray[np.float32]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RED, NIR = BANDS.index("B04"), BANDS.index("B08")

EXTINCTION: Float32 = np.array([0.95, 0.80, 0.95, 0.85, 0.62, 0.52, 0.50, 0.50, 0.72, 0.85], np.float32)
"""K by band: chosen because black leaves give about 1 (leaf projection 0.5, down and up) and scattering lowers it."""

# Dense canopies: means of dense French pixels in May to August (2023) of wheat, barley, rapeseed, maize, sunflower,
# grass and vine, less their soil; beet, potato and onion are set so that NDVI in full canopy is the Dutch one.
_CANOPY: dict[str, tuple[float, ...]] = {
    "winter_wheat": (0.022, 0.046, 0.022, 0.075, 0.270, 0.400, 0.425, 0.440, 0.140, 0.066),
    "winter_barley": (0.025, 0.053, 0.027, 0.086, 0.285, 0.402, 0.430, 0.442, 0.147, 0.070),
    "winter_rapeseed": (0.025, 0.057, 0.029, 0.096, 0.360, 0.460, 0.490, 0.502, 0.145, 0.066),
    "spring_barley": (0.026, 0.055, 0.029, 0.089, 0.288, 0.400, 0.428, 0.440, 0.150, 0.072),
    "maize": (0.028, 0.055, 0.029, 0.082, 0.310, 0.455, 0.478, 0.490, 0.185, 0.090),
    "sugar_beet": (0.028, 0.065, 0.030, 0.100, 0.400, 0.530, 0.555, 0.565, 0.200, 0.086),
    "potato": (0.028, 0.062, 0.031, 0.100, 0.395, 0.515, 0.540, 0.552, 0.198, 0.088),
    "onion": (0.030, 0.060, 0.036, 0.100, 0.290, 0.370, 0.395, 0.408, 0.155, 0.080),
    "sunflower": (0.030, 0.065, 0.036, 0.108, 0.390, 0.465, 0.488, 0.498, 0.200, 0.094),
    "permanent_grass": (0.030, 0.064, 0.036, 0.108, 0.325, 0.415, 0.440, 0.453, 0.212, 0.107),
    "temporary_grass": (0.028, 0.063, 0.032, 0.104, 0.335, 0.430, 0.455, 0.468, 0.205, 0.099),
    "alfalfa": (0.026, 0.061, 0.030, 0.100, 0.370, 0.480, 0.502, 0.514, 0.198, 0.090),
    "vineyard": (0.030, 0.055, 0.036, 0.090, 0.270, 0.330, 0.352, 0.364, 0.180, 0.092),
}
CANOPY: Float32 = np.array([_CANOPY[crop.key] for crop in CROPS], np.float32)
COVER: Float32 = np.array((0.028, 0.060, 0.033, 0.102, 0.330, 0.425, 0.450, 0.462, 0.190, 0.092), np.float32)
# French cereal pixels in July, after ripening.
STRAW: Float32 = np.array((0.100, 0.140, 0.185, 0.222, 0.260, 0.288, 0.306, 0.325, 0.395, 0.270), np.float32)
# Yellow petals reflect green and red, not blue (d'Andrimont et al. 2020, Remote Sensing of Environment 239).
FLOWER: Float32 = np.array((0.060, 0.185, 0.165, 0.230, 0.410, 0.480, 0.510, 0.522, 0.185, 0.100), np.float32)
# Turbid shallow water: dark, darker with wavelength (Doxaran et al. 2002, at moderate sediment).
TURBID_WATER: Float32 = np.array((0.060, 0.078, 0.070, 0.064, 0.054, 0.050, 0.045, 0.042, 0.020, 0.014), np.float32)
# Cloud that a mask misses is thin or broken: bright and grey.
CLOUD: Float32 = np.array((0.46, 0.45, 0.45, 0.46, 0.47, 0.48, 0.48, 0.48, 0.36, 0.28), np.float32)
WET_SOIL: Float32 = np.array((0.60, 0.58, 0.56, 0.55, 0.55, 0.55, 0.55, 0.55, 0.48, 0.42), np.float32)
"""Saturated over dry soil: darkest in the water bands (Lobell and Asner 2002)."""


def mixture(
    states: FieldStates, t: int | slice, crop: NDArray[np.int64], traits: Float32, soil: Float32, wetness: Float32
) -> tuple[Float32, Float32, Float32]:
    """Return the endless canopy, the ground and the plant area of each field.

    Args:
        states: daily states.
        t: column of the day.
        crop: index of the grown crop, (P,).
        traits: factor of each field on its canopy's spectrum, (P, 10).
        soil: dry soil of each field, (P, 10).
        wetness: top-soil wetness 0..1, (P,).

    Returns:
        canopy (P, 10), ground (P, 10), plant area (P,).
    """
    green, cover, brown = states.lai[:, t], states.cover[:, t], states.brown[:, t]
    area = green + cover + brown
    share = 1.0 / np.maximum(area, 1e-6)
    leaf = CANOPY[crop] * traits
    petals = states.flower[:, t][:, None]
    leaf = leaf + petals * (FLOWER - leaf)
    canopy = (green * share)[:, None] * leaf + (cover * share)[:, None] * COVER + (brown * share)[:, None] * STRAW
    ground = soil * (1 + wetness[:, None] * (WET_SOIL - 1))
    water = states.flooded[:, t][:, None]
    return canopy.astype(np.float32), (ground + water * (TURBID_WATER - ground)).astype(np.float32), area


def field_reflectance(canopy: Float32, ground: Float32, area: Float32, flooded: Float32) -> Float32:
    """Return mean reflectance (P, 10) of fields from `mixture`; a flood also covers the canopy."""
    through = np.exp(-EXTINCTION[None, :] * area[:, None])
    dry = canopy + (ground - canopy) * through
    mean: Float32 = dry + flooded[:, None] * (TURBID_WATER - dry)
    return mean


def pixel_reflectance(canopy: Float32, ground: Float32, area: Float32, flooded: Float32, pattern: Float32) -> Float32:
    """Return reflectance (P, 10, S) of pixels whose plant area is the field's times `pattern` (P, S)."""
    depth = area[:, None] * pattern  # (P, S)
    through = np.exp(-EXTINCTION[None, :, None] * depth[:, None, :])  # (P, 10, S)
    dry = canopy[:, :, None] + (ground - canopy)[:, :, None] * through
    water: Float32 = dry + flooded[:, None, None] * (TURBID_WATER[None, :, None] - dry)
    return water


def ndvi(red: NDArray[np.float32], nir: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normalised difference vegetation index."""
    index: Float32 = (nir - red) / np.maximum(nir + red, np.float32(1e-6))
    return index
