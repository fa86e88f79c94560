"""The columns of an observation message: names, types, units and the values that can be true.

One row is one observation: one parcel, seen in one pass of one satellite. JSON records and Arrow batches both decode to
tables of these schemas. A schema's name and version travel together, "parcelwatch.s2/1"; a change that an old reader
would misread raises the version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from db.sensors import POLARISATIONS, S2_BANDS, SENSORS, Sensor

CONTENT_TYPE_JSON: Final = "application/json"
CONTENT_TYPE_ARROW: Final = "application/vnd.apache.arrow.stream"
SCHEMA_KEY: Final = b"parcelwatch.schema"
"""Key of the Arrow schema metadata that holds the schema's name and version."""

TIME: Final = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Limits:
    """The closed interval in which a quantity can be true, and what is likely wrong outside of it."""

    low: float
    high: float
    unit: str
    hint: str = ""


# BOA_ADD_OFFSET = -1000 of Sentinel-2 L2A (processing baseline 04.00 and later) lets reflectance go down to -0.1;
# missed cloud and sunlit snow go above 1: 2 is chosen because it is above them and far below digital numbers.
_REFLECTANCE: Final = Limits(-0.1, 2.0, "reflectance", "send 0..1, not digital numbers")
_INDEX: Final = Limits(-1.0, 1.0, "", "a normalised difference cannot leave -1..1")
_SPREAD: Final = Limits(0.0, 1.0, "")
# Linear power is above 0; 1e-7 (-70 dB) and 100 (20 dB) are chosen because they are far outside of what fields and farm
# buildings show (the Dutch season 2023: -43 to 10 dB) and catch decibels sent by mistake.
_POWER: Final = Limits(1e-7, 100.0, "linear power", "send linear power, not dB")
_POWER_SPREAD: Final = Limits(0.0, 100.0, "linear power", "send linear power, not dB")
_SHARE: Final = Limits(0.0, 1.0, "")
_COUNT: Final = Limits(0, 2**31 - 1, "pixels")
_REVISION: Final = Limits(0, 2**15 - 1, "")


def _orbits(last: int) -> Limits:
    return Limits(0, last, "", f"relative orbits are 1..{last}, 0 for a composite")


@dataclass(frozen=True, slots=True)
class ObservationSchema:
    """One version of one sensor's message: its Arrow schema and limits; pixel sets are laid out as they are stored."""

    name: str
    version: int
    sensor: Sensor
    arrow: pa.Schema
    limits: Mapping[str, Limits]
    choices: Mapping[str, tuple[str, ...]]
    """Columns of text with a closed set of values."""
    enough: tuple[tuple[str, ...], ...]
    """An observation that is not withdrawn has all values of at least one of these groups."""

    @property
    def id(self) -> str:
        """Name and version as messages state them."""
        return f"{self.name}/{self.version}"

    @property
    def pixel_bands(self) -> tuple[str, ...]:
        """The rows of a pixel set, in their order."""
        return SENSORS[self.sensor].pixel_bands

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that every row must fill."""
        return tuple(field.name for field in self.arrow if not field.nullable)


def _arrow(
    schema_id: str, required: Mapping[str, pa.DataType], nullable: Mapping[str, pa.DataType], order: tuple[str, ...]
) -> pa.Schema:
    kinds = {**required, **nullable}
    fields = [pa.field(name, kinds[name], nullable=name in nullable) for name in order]
    return pa.schema(fields, metadata={SCHEMA_KEY: schema_id.encode()})


_IDENTITY: Final[dict[str, pa.DataType]] = {
    "collection": pa.string(),
    "season": pa.string(),
    "parcel_id": pa.string(),
    "observed_at": TIME,
    "available_at": TIME,
    "scene_id": pa.string(),
    "platform": pa.string(),
    "relative_orbit": pa.int16(),
}
_LIFECYCLE: Final[dict[str, pa.DataType]] = {"revision": pa.int16(), "is_withdrawn": pa.bool_()}
_S2_VALUES: Final = (*S2_BANDS, "NDVI", "NDVI_SD", "NBR2", "BSI", "S2WI")
_S1_VALUES: Final = ("VV", "VH", "VV_SD", "VH_SD")

S2: Final = ObservationSchema(
    name="parcelwatch.s2",
    version=1,
    sensor="S2",
    arrow=_arrow(
        "parcelwatch.s2/1",
        {**_IDENTITY, **_LIFECYCLE, "n_clear": pa.int32()},
        {**dict.fromkeys(_S2_VALUES, pa.float32()), "clear_fraction": pa.float32(), "pixels": pa.binary()},
        (*_IDENTITY, *_LIFECYCLE, *_S2_VALUES, "n_clear", "clear_fraction", "pixels"),
    ),
    limits={
        "relative_orbit": _orbits(175),  # it has 143; version 1 was published with Sentinel-1's limit
        "revision": _REVISION,
        **dict.fromkeys(S2_BANDS, _REFLECTANCE),
        "NDVI": _INDEX,
        "NDVI_SD": _SPREAD,
        "NBR2": _INDEX,
        "BSI": _INDEX,
        "S2WI": _INDEX,
        "n_clear": _COUNT,
        "clear_fraction": _SHARE,
    },
    choices={},
    enough=(("NDVI",), *((band,) for band in S2_BANDS)),
)

S1: Final = ObservationSchema(
    name="parcelwatch.s1",
    version=1,
    sensor="S1",
    arrow=_arrow(
        "parcelwatch.s1/1",
        {**_IDENTITY, "direction": pa.string(), "radiometry": pa.string(), **_LIFECYCLE, "n_pixels": pa.int32()},
        {
            **dict.fromkeys(_S1_VALUES, pa.float32()),
            "coherence_VV": pa.float32(),
            "coherence_VH": pa.float32(),
            "coherence_with": TIME,
            "pixels": pa.binary(),
        },
        (
            *_IDENTITY,
            "direction",
            "radiometry",
            *_LIFECYCLE,
            *_S1_VALUES,
            "n_pixels",
            "coherence_VV",
            "coherence_VH",
            "coherence_with",
            "pixels",
        ),
    ),
    limits={
        "relative_orbit": _orbits(175),
        "revision": _REVISION,
        "VV": _POWER,
        "VH": _POWER,
        "VV_SD": _POWER_SPREAD,
        "VH_SD": _POWER_SPREAD,
        "n_pixels": _COUNT,
        "coherence_VV": _SHARE,
        "coherence_VH": _SHARE,
    },
    choices={"direction": ("ascending", "descending", "mixed"), "radiometry": ("sigma0", "gamma0")},
    enough=(POLARISATIONS,),
)

SCHEMAS: Final[Mapping[str, ObservationSchema]] = {schema.id: schema for schema in (S2, S1)}
"""Every schema this version reads, by name and version."""
