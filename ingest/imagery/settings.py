"""Settings of the imagery chain, from the environment (PARCELWATCH_IMAGERY_...), built once at the command line."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingest.parcels.pixels import INNER_BUFFER_S1_M, INNER_BUFFER_S2_M, MIN_FULL_PIXELS


class ImagerySettings(BaseSettings):
    """How scenes are read and cut."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_IMAGERY_", frozen=True, extra="ignore")

    s2_buffer_m: Annotated[float, Field(ge=0)] = INNER_BUFFER_S2_M
    """Inner buffer that keeps mixed pixels out."""
    s1_buffer_m: Annotated[float, Field(ge=0)] = INNER_BUFFER_S1_M
    """Inner buffer of Sentinel-1, whose resolution is 20 m."""
    least_pixels: Annotated[int, Field(ge=1)] = MIN_FULL_PIXELS
    """Pixels below which a parcel is not cut (Sen4CAP: 8)."""
    sample_pixels: Annotated[int, Field(ge=1, le=4096)] = 64
    """Largest pixel set (Garnot et al. 2020: 64)."""
    clear_classes: frozenset[Annotated[int, Field(ge=1, le=11)]] = frozenset({4, 5, 6, 7})
    """SCL classes that show the ground: vegetation, not vegetated, water (flooded fields), unclassified. Source: phenofit
    (Kong et al. 2022) calls these four good; WorldCereal keeps 2 (dark areas) too, which holds topographic shadow."""
    least_clear: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a parcel's pixels that must be clear for an observation (chosen as the simulator's)."""
    threads: Annotated[int, Field(ge=1)] = 2
    """Bands read at the same time."""

    chips: bool = True
    """Whether workers cut pictures of the parcels that stand yellow or red, or are sampled."""
    chip_margin_m: Annotated[float, Field(ge=0, le=2000)] = 100.0
    """Ground around a parcel that its picture shows (chosen: the next field on each side)."""
    chip_pixels: Annotated[int, Field(ge=32, le=256)] = 96
    """Largest side of a picture in pixels of the scene; of a larger window every second, third ... is shown (chosen: 960 m, and
    25 kB as PNG)."""
    chip_days: Annotated[int, Field(ge=1)] = 730
    """Days after which a picture is removed, once no alert of its parcel is open (chosen: this season and the appeals of the next)."""
