"""Sentinel-2 in STAC items: names of products and assets, scale and offset of reflectance, which granule of a tile.

What the three large catalogues do differently:

                        Earth Search v1             Planetary Computer      Copernicus Data Space
    assets              blue, rededge1, scl         B02, B05, SCL           B02_10m, B05_20m, SCL_20m
    scale and offset    raster:bands                not said                raster:scale, raster:offset or in bands
    offset in the data  earthsearch:boa_offset_applied  no                  no
    baseline            s2:processing_baseline      s2:processing_baseline  processing:version

Reflectance offset, in this order: 0 where a property says that it was applied to the data, or where the baseline is before
04.00 (such products have none, whatever the item says); what the item says; -0.1 from baseline 04.00 on.

Source: Element84/earth-search issues 24, 66 and 71 (items that contradict their data exist: `optical` refuses scenes with
negative reflectance).
"""

import re
from datetime import datetime
from typing import Final

from ingest.imagery.profile import Item, ItemBand, Profile, first, number, time, time_in_name
from ingest.imagery.scene import SCL, Band

QUANTIFICATION: Final = 10_000.0
ADD_OFFSET: Final = -1_000.0
"""BOA_ADD_OFFSET of every band of every product from baseline 04.00 on."""
OFFSET_SINCE: Final = 4.0
PRODUCT: Final = re.compile(
    r"(?P<platform>S2[A-D])_MSIL2A_(?P<start>\d{8}T\d{6})(_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})"
    r"(_T(?P<tile>\w{5})_(?P<made>\d{8}T\d{6}))?"
)
"""Its name holds datatake start, baseline and orbit (Planetary Computer's ids lack N....)."""
_DATASTRIP: Final = re.compile(r"_S(\d{8}T\d{6})")
"""Of S2A_OPER_MSI_L2A_DS_2APS_20230501T170300_S20230501T105623_N05.09: its start."""
S2_PROFILE: Final = Profile(
    "S2",
    {
        "B02": ("B02", "blue", "B02_10m"),
        "B03": ("B03", "green", "B03_10m"),
        "B04": ("B04", "red", "B04_10m"),
        "B05": ("B05", "rededge1", "B05_20m"),
        "B06": ("B06", "rededge2", "B06_20m"),
        "B07": ("B07", "rededge3", "B07_20m"),
        "B08": ("B08", "nir", "B08_10m"),
        "B8A": ("B8A", "nir08", "B8A_20m"),
        "B11": ("B11", "swir16", "B11_20m"),
        "B12": ("B12", "swir22", "B12_20m"),
        SCL: (SCL, "scl", "SCL_20m"),
    },
)


def band(of: ItemBand, profile: Profile) -> Band:
    """Return a band of reflectance or the scene classification. Raises ValueError where reflectance cannot be known."""
    if of.name == SCL:
        return Band(of.href, "class", nodata=0.0)
    return Band(of.href, "reflectance", of.scale or 1 / QUANTIFICATION, _offset(of, profile), 0.0)


def datastrip_start(properties: Item, profile: Profile) -> datetime | None:
    """Return when the granule's datastrip starts; None where no property says it."""
    strip = _DATASTRIP.search(str(first(properties, profile.datastrip) or ""))
    return time(time_in_name(strip[1])) if strip else None


def _offset(of: ItemBand, profile: Profile) -> float:
    """Return the offset of reflectance; a baseline that is no number (a provider's own) is ignored."""
    version = number(of.baseline)
    if first(of.properties, profile.offset_applied) is True or (version is not None and version < OFFSET_SINCE):
        return 0.0
    if of.offset is not None:
        return of.offset
    if version is None:
        raise ValueError("neither an offset nor a processing baseline is given, so reflectance cannot be known")
    return ADD_OFFSET / QUANTIFICATION
