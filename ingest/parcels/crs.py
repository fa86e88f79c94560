"""Coordinate systems that parcel files say: usable, or why not; read in the process of `ingest.parcels.reader`."""

import re
from typing import Final

CRS_NAME: Final = re.compile(r"(?:urn:ogc:def:crs:)?[A-Za-z]+:[\d.]*:?\w+")
CRS_FILE: Final = re.compile(r"PARAMETERFILE|\+init|grids=(?!@null)", re.IGNORECASE)
"""What would make PROJ open a file named by the definition of a coordinate system."""


def usable_crs(given: object) -> tuple[str | None, str | None]:
    """Return a coordinate system as WKT, or None and why it cannot be used.

    A system whose datum is unknown could be brought to longitude and latitude by a ballpark transformation only, which
    puts fields some 100 m away from where they are.
    """
    import pyproj
    from pyproj.exceptions import CRSError, ProjError

    if isinstance(given, str) and ("[" not in given or CRS_FILE.search(given)) and not CRS_NAME.fullmatch(given):
        return None, "its coordinate system cannot be understood"
    try:
        crs = pyproj.CRS.from_user_input(given)
        wkt = crs.to_wkt()
        if CRS_FILE.search(wkt):
            return None, "its coordinate system refers to a file"
        pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True, allow_ballpark=False)
    except CRSError:
        return None, "its coordinate system cannot be understood"
    except ProjError:
        return None, f"its coordinate system, {crs.name!r}, has no known datum (only a ballpark transformation)"
    return wkt, None
