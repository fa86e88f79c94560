"""Sentinel-1 in STAC items: names of products and assets, the unit of backscatter."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from ingest.imagery.profile import Item, ItemBand, Profile, first, needed, time
from ingest.imagery.scene import Band, Unit

PRODUCT: Final = re.compile(
    r"(?P<platform>S1[A-D])_\w+?_(?P<start>\d{8}T\d{6})_\d{8}T\d{6}_\d{6}_(?P<datatake>[0-9A-F]{6})"
)
S1_PROFILE: Final = Profile(
    "S1", {"VV": ("VV", "vv"), "VH": ("VH", "vh"), "coherence_VV": ("coherence_VV",), "coherence_VH": ("coherence_VH",)}
)
_UNITS: Final[Mapping[str, Unit]] = {
    "linear power": "linear",
    "linear": "linear",
    "power": "linear",
    "linear amplitude": "amplitude",
    "amplitude": "amplitude",
    "db": "dB",
    "decibel": "dB",
    "logarithmic": "dB",
}


def band(of: ItemBand, profile: Profile) -> Band:
    """Return a band of backscatter or coherence. Raises ValueError where the unit is not known."""
    unit = "coherence" if of.name.startswith("coherence") else _unit(of, profile)
    return Band(of.href, unit, of.scale or 1.0, of.offset or 0.0, of.nodata)


def slice_start(properties: Item, profile: Profile) -> datetime:
    """Return a slice's own start; its product does not say its datatake's."""
    return time(needed(properties, profile.observed_at))


def _unit(of: ItemBand, profile: Profile) -> Unit:
    """Return the unit of backscatter as the nearest place says it: the band, the asset, then the item. Raises ValueError.

    STAC 1.1 calls it `unit` in `bands`, the asset and the item; the raster extension 1.1 in `raster:bands`, 2.0 `raster:unit`.
    """
    places = [*(of.asset.get("raster:bands") or [])[:1], *(of.asset.get("bands") or [])[:1], of.asset]
    stated = next((found for place in places if (found := first(place, ("raster:unit", "unit")))), None)
    stated = stated or needed(of.properties, (*profile.unit, "raster:unit", "unit"))
    unit = _UNITS.get(str(stated).strip().lower())
    if unit is None:
        raise ValueError(f"{of.name}: unit of backscatter {stated!r} is not known; known: {', '.join(_UNITS)}")
    return unit
