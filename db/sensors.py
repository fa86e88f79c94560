"""What the store keeps of each sensor, one row a sensor in `SENSORS`; a table each (`tables.py`), for their columns differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from db.columns import Kind

Sensor = Literal["S1", "S2"]
"""As the enum of that name in the database."""

S2_BANDS: Final = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
POLARISATIONS: Final = ("VV", "VH")

_KEY: Final[Mapping[str, Kind]] = {
    "parcel_key": "bigint",
    "observed_at": "time",
    "relative_orbit": "smallint",
    "revision": "smallint",
    "is_withdrawn": "bool",
    "recorded_at": "time",
}
_EVERY_VALUE: Final = ("scene_key", "available_at", "is_withdrawn")
_S2_MEANS: Final = ("ndvi", "ndvi_sd", "nbr2", "bsi", "s2wi", *(band.lower() for band in S2_BANDS))
_S1_MEANS: Final = ("vv", "vh", "vv_sd", "vh_sd")


@dataclass(frozen=True, slots=True)
class StoredSensor:
    """Where a sensor's observations are stored, and how they are read."""

    table: str
    values: tuple[str, ...]
    """Columns beside the key: what two rows of one key must share to be the same observation."""
    series: Mapping[str, Kind]
    """Fields of a series."""
    pixel_bands: tuple[str, ...]
    """The rows of a stored pixel set, in their order."""
    pixel_scale: float
    """A pixel set holds values times this, as int16."""
    selected: str = "o.*"
    """SQL of the columns that `series` is of; `o` is the table."""


SENSORS: Final[Mapping[Sensor, StoredSensor]] = {
    "S1": StoredSensor(
        table="s1_observations",
        values=(
            *_EVERY_VALUE,
            "n_pixels",
            "direction",
            "radiometry",
            *_S1_MEANS,
            "coherence_vv",
            "coherence_vh",
            "coherence_with",
        ),
        series={**_KEY, "n_pixels": "int", "direction_nr": "smallint", **dict.fromkeys(_S1_MEANS, "real")},
        pixel_bands=POLARISATIONS,
        pixel_scale=100.0,  # decibels
        selected="o.*, array_position(enum_range(null::orbit_direction), direction) as direction_nr",
    ),
    "S2": StoredSensor(
        table="s2_observations",
        values=(*_EVERY_VALUE, "n_clear", "clear_fraction", *_S2_MEANS),
        series={**_KEY, "n_clear": "int", **dict.fromkeys(("clear_fraction", *_S2_MEANS), "real")},
        pixel_bands=S2_BANDS,
        pixel_scale=10_000.0,  # reflectance
    ),
}
