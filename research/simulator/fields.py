"""The fields of one region, ready to be observed: place, state, own appearance, weather and pixels."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Point, Polygon

from research.simulator.config import SimulatorConfig
from research.simulator.growth import FieldStates
from research.simulator.pixels import LEAST_PIXELS, PixelSample, growth_pattern, sample_pixels
from research.simulator.radar import FieldRadar
from research.simulator.randomness import stream
from research.simulator.regions import REGIONS
from research.simulator.weather import Weather

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LEAF_SPREAD = (0.07, 0.06, 0.08)  # sd between stands: chlorophyll, structure, leaf water; leaf traits vary by 10 %
SOIL_SPREAD, SOIL_TINT = 0.16, 0.05  # log-normal brightness and colour: between the quartiles of the French bare pixels
# Within-crop sd of Dutch fields in full canopy is 0.7 to 1.0 dB, on bare soil 2 to 3 (with roughness and rain).
CANOPY_SPREAD_DB, SOIL_SPREAD_DB, OWN_SPREAD_DB = 0.8, 1.6, 0.4
MOISTURE_SPREAD = 0.03
SWATH_DEG_PER_KM = (46 - 29) / 250  # incidence across an IW swath
TEXTURE = 0.12  # within-field sd of backscatter beyond speckle


@dataclass(frozen=True)
class Appearance:
    """How each field differs from its crop's and region's mean."""

    traits: Float32
    """Factor on the canopy's spectrum, (P, 10)."""
    soil: Float32
    """Reflectance of the dry soil, (P, 10)."""
    radar: FieldRadar


@dataclass(frozen=True)
class Fields:
    """All that is needed to observe the parcels of one region."""

    parcel_id: NDArray[np.str_]
    crop: IntArray
    centre: FloatArray
    """UTM position, (P, 2)."""
    west_share: FloatArray
    """Place between the western (0) and eastern (1) edge of the region, (P,)."""
    neighbour: IntArray
    """Row of the nearest other field, (P,)."""
    states: FieldStates
    appearance: Appearance
    wetness: FloatArray
    """(T,)"""
    temperature: FloatArray
    cloud: FloatArray
    s2: PixelSample
    s2_pattern: Float32
    s1: PixelSample
    s1_texture: Float32

    @property
    def is_monitorable(self) -> BoolArray:
        """Say whether a field has pixels enough, (P,)."""
        return self.s2.count >= LEAST_PIXELS


def draw_appearance(
    region: NDArray[np.str_], field: IntArray, east_km: FloatArray, config: SimulatorConfig
) -> Appearance:
    """Sample the appearance of all parcels: soils stay with the field from year to year, stands do not.

    Args:
        region: region key of each parcel, (P,).
        field: row of each parcel in the landscape, (P,).
        east_km: easting from the middle of the region, (P,).
        config: seed and year.
    """
    n = len(region)
    ground, stand = stream(config.seed, "soil"), stream(config.seed, "stand", config.year)
    kept = np.clip(ground.normal(0, 1, (int(field.max()) + 1, 5)), -2, 2)[
        field
    ]  # brightness, tint, backscatter, moisture, rows
    tint = np.linspace(-1, 1, 10)[None, :] * SOIL_TINT * kept[:, 1:2]
    soil = np.array([REGIONS[r].soil_dry for r in region]) * np.exp(
        SOIL_SPREAD * kept[:, :1] + tint + config.soil_shift
    )
    pigment, structure, leaf_water = (stand.normal(0, sd, (n, 1)) for sd in LEAF_SPREAD)
    # Bands that each trait moves: absorption of chlorophyll, the near-infrared plateau, water absorption.
    absorbs = np.array([0.8, 1.0, 1.0, 1.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    scatters = np.array([0.2, 0.3, 0.2, 0.4, 0.9, 1.0, 1.0, 1.0, 0.6, 0.4])
    dries = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.3])
    traits = np.exp(pigment * absorbs + structure * scatters + leaf_water * dries + stand.normal(0, 0.02, (n, 10)))
    canopy_db, soil_db = CANOPY_SPREAD_DB * stand.normal(0, 1, n), SOIL_SPREAD_DB * kept[:, 2]
    offset = np.stack([canopy_db, 0.8 * canopy_db, soil_db, 0.9 * soil_db], axis=1)
    offset += stand.normal(0, OWN_SPREAD_DB, (n, 4))
    radar = FieldRadar(
        moisture=(MOISTURE_SPREAD * kept[:, 3]).astype(np.float32),
        offset=offset.astype(np.float32),
        row_azimuth_deg=(90 * kept[:, 4] % 180).astype(np.float32),
        tilt_deg=(SWATH_DEG_PER_KM * east_km).astype(np.float32),
    )
    return Appearance(traits.astype(np.float32), soil.astype(np.float32), radar)


def build_fields(
    here: IntArray,
    outlines: list[Polygon],
    parcel_id: NDArray[np.str_],
    crop: IntArray,
    states: FieldStates,
    appearance: Appearance,
    weather: Weather,
    config: SimulatorConfig,
) -> Fields:
    """Return the parcels of one region: rows `here` of the whole, their UTM outlines and the region's weather in season."""
    s2 = sample_pixels(outlines, 5.0, config.n_pixels, config.seed)
    s1 = sample_pixels(outlines, 10.0, config.n_pixels, config.seed)
    points = [Point(outline.centroid) for outline in outlines]
    neighbour = shapely.STRtree(points).query_nearest(points, exclusive=True, all_matches=False)[1]
    centre = np.array([(point.x, point.y) for point in points])
    east = centre[:, 0]
    texture = np.exp(stream(config.seed, "texture").normal(0, TEXTURE, s1.is_used.shape)).astype(np.float32)
    r = appearance.radar
    return Fields(
        parcel_id=parcel_id[here],
        crop=crop[here],
        centre=centre,
        west_share=(east - east.min()) / max(float(np.ptp(east)), 1.0),
        neighbour=neighbour,
        states=FieldStates(*(getattr(states, name)[here] for name in FieldStates.__dataclass_fields__)),
        appearance=Appearance(
            appearance.traits[here],
            appearance.soil[here],
            FieldRadar(r.moisture[here], r.offset[here], r.row_azimuth_deg[here], r.tilt_deg[here]),
        ),
        wetness=weather.wetness,
        temperature=weather.temperature,
        cloud=weather.cloud,
        s2=s2,
        s2_pattern=growth_pattern(s2, config.seed),
        s1=s1,
        s1_texture=texture,
    )
