"""Sentinel-1 backscatter of a field by the water cloud model.

    sigma = sum_i sigma8_i cos(theta)/cos(38) (1 - tau2) W_i / W + tau2 sigma_soil
    tau2 = exp(-2 B W / cos(theta))
    sigma_soil[dB] = C + D (m - 0.28) + E r + F (theta - 38)

(Attema and Ulaby 1978, Radio Science 13, 357-364.) W is canopy water of the crop and of the cover, sigma8 the canopy's
level were it opaque, m volumetric soil moisture, r roughness. C, D, E, F: bare Dutch fields of 2023 are at -9.5 dB VV
and -17.5 dB VH in a wet winter, -14 and -23 on dry seedbeds in May, and 2.5 dB (VV) apart between 35 and 43 degrees;
0.2 to 0.25 dB per volume per cent agrees with Zribi et al. 2005. Units: linear power inside, dB where named so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.simulator.crops import CROPS
from research.simulator.growth import COVER_VH_DB, COVER_VV_DB, FieldStates

Float32 = NDArray[np.float32]
IntArray = NDArray[np.int64]

REFERENCE_DEG = 38.0
SOIL_C = (-9.2, -17.4)
SOIL_D = (22.0, 15.0)  # dB per m3/m3
SOIL_E = (2.6, 3.6)
SOIL_F = (-0.28, -0.12)  # dB per degree
CANOPY_F = (-0.06, -0.06)  # volume scattering hardly depends on incidence (Ulaby, Moore and Fung 1986)
COVER_DEPTH, COVER_WATER = 0.30, 0.33  # m2/kg and kg/m2 per leaf area: as grass
ROW_DB = 1.3  # rows across the look direction are brighter ("flashing fields", Wegmueller et al. 2006)
FROZEN_DB = (-3.0, -2.5)  # frozen ground loses its permittivity (Khaldoune et al. 2011)
FLOOD_DB = (-19.0, -27.0)  # calm water
MOISTURE = (0.10, 0.28)  # volumetric moisture when dry, and its rise to saturation
ENL = 4.4  # equivalent number of appearance of a GRD pixel in IW high resolution (ESA product specification: 4.4)

_DEPTH: Float32 = np.array([crop.depth for crop in CROPS], np.float32)


@dataclass(frozen=True)
class FieldRadar:
    """What is constant of a field for the radar, each (P,) but `offset`."""

    moisture: Float32
    """Wetter or drier than the region, m3/m3."""
    offset: Float32
    """Deviation of canopy and soil, dB, (P, 4): canopy VV, canopy VH, soil VV, soil VH."""
    row_azimuth_deg: Float32
    """Direction of tillage."""
    tilt_deg: Float32
    """Incidence angle beyond the region's centre, from the place in the swath, per orbit side (east positive)."""


def field_backscatter(
    states: FieldStates,
    t: int,
    crop: IntArray,
    field: FieldRadar,
    wetness: float,
    is_frozen: bool,
    incidence_deg: float,
    look_azimuth_deg: float,
) -> Float32:
    """Return mean backscatter (P, 2) of fields in VV and VH, linear power sigma0.

    Args:
        states: daily states.
        t: column of the day.
        crop: index of the grown crop, (P,).
        field: constants of the fields.
        wetness: top-soil wetness of the region, 0..1.
        is_frozen: whether the ground is frozen at the time of the pass.
        incidence_deg: incidence angle at the region's centre.
        look_azimuth_deg: azimuth the radar looks to; its sign of easting tilts the incidence angle.
    """
    east = 1.0 if np.sin(np.deg2rad(look_azimuth_deg)) > 0 else -1.0
    theta = incidence_deg + east * field.tilt_deg
    cosine = np.cos(np.deg2rad(theta))
    moisture = np.clip(MOISTURE[0] + MOISTURE[1] * wetness + field.moisture, 0.04, 0.45)
    rough = states.roughness[:, t]
    across = np.sin(np.deg2rad(look_azimuth_deg - field.row_azimuth_deg)) ** 2  # looking along the rows: 0
    row = ROW_DB * (across - 0.5) * (0.5 + np.abs(rough))
    crop_water, cover_water = states.water[:, t], COVER_WATER * states.cover[:, t]
    out = np.empty((len(crop), 2), np.float32)
    for p, level in enumerate((states.vv[:, t], states.vh[:, t])):
        soil_db = SOIL_C[p] + SOIL_D[p] * (moisture - 0.28) + SOIL_E[p] * rough + SOIL_F[p] * (theta - REFERENCE_DEG)
        soil_db = soil_db + field.offset[:, 2 + p] + (row if p == 0 else 0.3 * row) + FROZEN_DB[p] * is_frozen
        slope = CANOPY_F[p] * (theta - REFERENCE_DEG) + field.offset[:, p]
        depth = _DEPTH[crop, p] * crop_water + COVER_DEPTH * cover_water
        through = np.exp(-2 * depth / cosine)
        water = np.maximum(crop_water + cover_water, 1e-6)
        cover_level = (COVER_VV_DB, COVER_VH_DB)[p]
        canopy = (crop_water * _power(level + slope) + cover_water * _power(cover_level + slope)) / water
        land = canopy * cosine / np.cos(np.deg2rad(REFERENCE_DEG)) * (1 - through) + through * _power(soil_db)
        flooded = states.flooded[:, t]
        out[:, p] = land + flooded * (_power(FLOOD_DB[p]) - land)
    return out


def speckled(mean: Float32, texture: Float32, rng: np.random.Generator) -> Float32:
    """Return pixels (P, 2, S) of fields with mean (P, 2) and texture (P, S): gamma speckle, independent by polarisation."""
    shape = (mean.shape[0], 2, texture.shape[1])
    speckle: Float32 = rng.standard_gamma(ENL, shape, dtype=np.float32) / np.float32(ENL)
    pixels: Float32 = mean[:, :, None] * texture[:, None, :] * speckle
    return pixels


def _power(db: Float32 | float) -> Float32:
    power: Float32 = np.power(np.float32(10.0), db / np.float32(10.0))
    return power


def decibel(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 10 log10 of linear power."""
    return np.float32(10.0) * np.log10(np.maximum(power, np.float32(1e-9)))
