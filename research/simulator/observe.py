"""What a satellite sees of the fields on one pass: the Arrow table of a product.

Cloud is a smooth field over the region (6 km and 1.2 km) cut at the quantile of the pass's cloud fraction, which is
drawn from a U-shaped beta distribution about the day's expectation: most passes are nearly clear or nearly overcast.
The mask misses the thin rim just below the cut. Border pixels take part of the neighbouring field's light.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from research.simulator import optics, radar
from research.simulator.config import SimulatorConfig
from research.simulator.fields import Fields
from research.simulator.randomness import smooth_field, stream
from research.simulator.regions import S1Orbit, S2Orbit
from research.simulator.tables import INVALID, S1_SCHEMA, S2_SCHEMA, Heading, means, packed_pixels, table

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LEAST_CLEAR = 0.05
"""Clear share below which a parcel has no observation of a pass."""
CLOUD_SHAPE = 0.9  # beta concentration: U-shaped, as cloud fractions over 20 km are
ADJACENCY = (0.35, 7.0)  # share of the neighbour's light at the border, and its reach in metres (10 m PSF)
NOISE = (0.002, 0.012)  # additive, relative: chosen because NDVI of even Dutch fields has a sd of 0.02 within the field
SCENE_GAIN, SCENE_HAZE = 0.015, 0.003  # atmospheric correction left over: gain, and haze in the blue
FIELD_GAIN = 0.025  # direction effects that differ between fields from day to day
# Ascending passes look east, descending ones west, 10 to 13 degrees off at these latitudes.
LOOK_AZIMUTH = {"ascending": 79.0, "descending": 281.0}
FIELD_DB = 0.35  # deviations of a field that last a day: dew, wind, interception
FROZEN_C = -1.0


Skipped = dict[str, int]


def observe_s2(
    fields: Fields, orbit: S2Orbit, t: int, heading: Heading, config: SimulatorConfig
) -> tuple[pa.Table, Skipped]:
    """Return the Sentinel-2 table of a pass on column `t`, and how many parcels were left out and why."""
    product = heading.product
    rng = stream(config.seed, "s2", product.region, int(heading.season), product.number)
    clouds = draw_clouds(fields, t, rng, config.missed_cloud if product.revision == 0 else 0.0)
    is_clear, hidden = clouds.over(slice(None), fields.s2.offset)
    has_any, in_swath, clear_share = is_seen(fields, orbit, is_clear)
    is_good, used, seen = fields.is_monitorable & in_swath, fields.s2.is_used, np.flatnonzero(has_any)
    skipped = {
        "not_monitorable": int((~fields.is_monitorable).sum()),
        "outside_swath": int((fields.is_monitorable & ~in_swath).sum()),
        "cloud": int(is_good.sum()) - len(seen),
    }
    scene = rng.normal(0, 1, (2, 10)).astype(np.float32)
    if product.is_withdrawn:
        return table(S2_SCHEMA, heading, _withdrawn(fields, seen, "n_clear")), skipped
    own = stream(config.seed, "shift", product.region, int(heading.season), product.number)
    border = _border(fields, seen, own.normal(0, config.shift_m, 2))
    values = _s2_pixels(fields, seen, t, hidden[seen], border, scene, rng)
    valid = (is_clear & used)[seen]
    mean, _ = means(values, valid)
    index = optics.ndvi(values[:, optics.RED], values[:, optics.NIR])
    ndvi, ndvi_sd = means(index[:, None, :], valid)
    sets = np.where(valid[:, None, :], np.clip(np.round(values * 1e4), 0, 32767), INVALID).astype(np.int16)
    b = {name: mean[:, i] for i, name in enumerate(optics.BANDS)}
    columns: dict[str, object] = {
        "parcel_id": fields.parcel_id[seen].tolist(),
        **b,
        "NDVI": ndvi[:, 0],
        "NDVI_SD": ndvi_sd[:, 0],
        "NBR2": (b["B11"] - b["B12"]) / (b["B11"] + b["B12"]),
        "BSI": (b["B11"] + b["B04"] - b["B08"] - b["B02"]) / (b["B11"] + b["B04"] + b["B08"] + b["B02"]),
        # Chosen because it gives the medians of S2WI by NDVI in the Dutch data, -0.40 on soil to 0.39 on dense crops.
        "S2WI": (b["B08"] - b["B11"] - b["B12"]) / (b["B08"] + b["B11"] + b["B12"]),
        "n_clear": np.round(clear_share[seen] * fields.s2.count[seen]).astype(np.int32),
        "clear_fraction": clear_share[seen].astype(np.float32),
        "pixels": packed_pixels(sets, used[seen]),
    }
    return table(S2_SCHEMA, heading, columns), skipped


def observe_s1(
    fields: Fields, orbit: S1Orbit, t: int, heading: Heading, config: SimulatorConfig
) -> tuple[pa.Table, Skipped]:
    """Return the Sentinel-1 table of a pass on column `t`, and how many parcels were left out and why."""
    product = heading.product
    rng = stream(config.seed, "s1", product.region, int(heading.season), product.number)
    count = fields.s1.count
    seen = np.flatnonzero(fields.is_monitorable & (count > 0))
    skipped = {
        "not_monitorable": int((~fields.is_monitorable).sum()),
        "too_narrow": int((fields.is_monitorable & (count == 0)).sum()),
    }
    shared = {"direction": pa.repeat(pa.scalar(orbit.direction), len(seen))}
    shared["radiometry"] = pa.repeat(pa.scalar("sigma0"), len(seen))
    if product.is_withdrawn:
        return table(S1_SCHEMA, heading, {**_withdrawn(fields, seen, "n_pixels"), **shared}), skipped
    mean = radar.field_backscatter(
        fields.states,
        t,
        fields.crop,
        fields.appearance.radar,
        float(fields.wetness[t]),
        bool(fields.temperature[t] < FROZEN_C),
        orbit.incidence_deg,
        LOOK_AZIMUTH[orbit.direction],
    )[seen]
    recalibrated_db = 0.1 * product.revision  # a new calibration auxiliary file
    recalibrated_db += config.radar_offset_db * (product.platform == "S1C")
    mean *= np.power(10, (rng.normal(0, FIELD_DB, mean.shape) + recalibrated_db) / 10).astype(np.float32)
    used = fields.s1.is_used[seen]
    values = radar.speckled(mean, fields.s1_texture[seen], rng)
    sample_mean, sd = means(values, used)
    # The mean is that of all pixels: those outside the sample add one gamma variate with their summed appearance.
    k, rest = used.sum(axis=1), count[seen] - used.sum(axis=1)
    appearance = np.maximum(rest, 1)[:, None] * radar.ENL
    outside = mean * rng.gamma(appearance, 1 / appearance, mean.shape)
    total = (sample_mean * k[:, None] + outside * rest[:, None]) / (k + rest)[:, None]
    sets = np.clip(np.round(radar.decibel(values) * 100), -32767, 32767).astype(np.int16)
    columns: dict[str, object] = {
        "parcel_id": fields.parcel_id[seen].tolist(),
        **shared,
        "VV": total[:, 0].astype(np.float32),
        "VH": total[:, 1].astype(np.float32),
        "VV_SD": sd[:, 0],
        "VH_SD": sd[:, 1],
        "n_pixels": count[seen].astype(np.int32),
        "pixels": packed_pixels(sets, used),
    }
    return table(S1_SCHEMA, heading, columns), skipped


def _withdrawn(fields: Fields, seen: IntArray, count_name: str) -> dict[str, object]:
    """Return columns of a withdrawal: the parcels, and no values."""
    zero = {count_name: np.zeros(len(seen), np.int32)}
    extra = {"clear_fraction": np.zeros(len(seen), np.float32)} if count_name == "n_clear" else {}
    return {"parcel_id": fields.parcel_id[seen].tolist(), **zero, **extra}


@dataclass(frozen=True)
class Clouds:
    """The clouds of a pass over P fields: a smooth field, cloud where it is above a cut."""

    here: FloatArray
    """At each field's centre, (P,)."""
    slope: FloatArray
    """A metre to the east and to the north, (P, 2); fields are small beside clouds: linear within a field."""
    cut: float
    """What the mask calls cloud is above it."""
    rim: float
    """Between this and the cut lies what the mask misses."""
    depth: FloatArray
    """Of what is missed: how much cloud (positive) or shadow (negative), (P,)."""

    def over(self, rows: IntArray | slice, offset: Float32) -> tuple[BoolArray, Float32]:
        """Return of places (p, S, 2) in some fields whether the mask calls them clear, and how much cloud or shadow it missed."""
        level = self.here[rows, None] + np.einsum("psk,pk->ps", offset, self.slope[rows])
        is_missed = (level > self.rim) & (level <= self.cut)
        return level <= self.cut, (self.depth[rows, None] * is_missed).astype(np.float32)


def draw_clouds(fields: Fields, t: int, rng: np.random.Generator, missed: float) -> Clouds:
    """Return the clouds of a pass on column `t`, of which the mask misses a share."""
    expected = float(np.clip(fields.cloud[t], 0.02, 0.98))
    fraction = float(np.clip(rng.beta(expected * CLOUD_SHAPE, (1 - expected) * CLOUD_SHAPE), 1e-4, 1 - 1e-4))
    step = 100.0
    probes = fields.centre[:, None, :] + np.array([[0, 0], [step, 0], [0, step]])
    field = (smooth_field(probes, 6000.0, rng) + 0.7 * smooth_field(probes, 1200.0, rng)) / np.sqrt(1.49)  # (P, 3)
    slope = (field[:, 1:] - field[:, :1]) / step  # (P, 2)
    normal = NormalDist()
    cut = normal.inv_cdf(1 - fraction)
    rim = normal.inv_cdf(max((1 - fraction) * (1 - missed), 1e-5))
    is_shadow = rng.random(len(field)) < 0.35
    depth = np.where(is_shadow, -rng.uniform(0.25, 0.55, len(field)), rng.uniform(0.15, 0.7, len(field)))
    return Clouds(field[:, 0], slope, cut, rim, depth)


def is_seen(fields: Fields, orbit: S2Orbit, is_clear: BoolArray) -> tuple[BoolArray, BoolArray, FloatArray]:
    """Return (P,) which parcels have an observation, which lie in the swath, and the clear share of each."""
    in_swath = (fields.west_share >= orbit.west) & (fields.west_share <= orbit.east)
    used = fields.s2.is_used
    clear_share = (is_clear & used).sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    return fields.is_monitorable & in_swath & (clear_share >= LEAST_CLEAR), in_swath, clear_share


def _border(fields: Fields, seen: IntArray, shift_m: FloatArray) -> Float32:
    """Return how far the pixels of the parcels seen lie from the outline (P', S) if the pass is shifted; negative: in the next field."""
    offset = fields.s2.offset[seen]
    outwards = offset / np.maximum(np.linalg.norm(offset, axis=2, keepdims=True), 1.0)
    border: Float32 = (fields.s2.border_m[seen] - outwards @ shift_m).astype(np.float32)
    return border


# More than six: what is random of a pass is drawn before.
def _s2_pixels(
    fields: Fields, seen: IntArray, t: int, hidden: Float32, border_m: Float32, scene: Float32, rng: np.random.Generator
) -> Float32:
    """Return reflectance of the sampled pixels of the parcels seen, (P', 10, S)."""
    wetness = np.full(len(fields.crop), fields.wetness[t], np.float32)
    canopy, ground, area = optics.mixture(
        fields.states, t, fields.crop, fields.appearance.traits, fields.appearance.soil, wetness
    )
    flooded = fields.states.flooded[:, t]
    field = optics.field_reflectance(canopy, ground, area, flooded)
    values = optics.pixel_reflectance(canopy[seen], ground[seen], area[seen], flooded[seen], fields.s2_pattern[seen])
    weight = np.minimum(np.float32(ADJACENCY[0]) * np.exp(-border_m / np.float32(ADJACENCY[1])), np.float32(1))
    values += weight[:, None, :] * (field[fields.neighbour[seen]][:, :, None] - values)
    gain = 1 + SCENE_GAIN * scene[0] + FIELD_GAIN * rng.standard_normal((len(seen), 1), dtype=np.float32)
    haze = SCENE_HAZE * scene[1, 0] * np.linspace(1.5, 0.1, 10, dtype=np.float32)
    values = values * gain[:, :, None] + haze[None, :, None]
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    values += noise * (np.float32(NOISE[0]) + np.float32(NOISE[1]) * values)
    cloud = np.maximum(hidden, 0)[:, None, :]
    values = values + cloud * (optics.CLOUD[None, :, None] - values)
    values = values * (1 + np.minimum(hidden, 0)[:, None, :])
    seen_values: Float32 = np.clip(values, 1e-4, 1.5).astype(np.float32)
    return seen_values
