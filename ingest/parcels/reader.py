"""The process that reads a parcel file: GDAL, Arrow and GEOS on bytes of unknown origin, within limits.

    files ── request (JSON, stdin) ──> here ── description (JSON) or features (Arrow stream) ──> files

A file that crashes a library, or makes it take memory without end, ends this process and not the importer. GDAL knows
only the drivers named here and has no network: a parcel file is never a way to other files or to addresses.
"""

import json
import os
import resource
import sys
import warnings
from typing import Final

from ingest.errors import ReadError
from ingest.parcels.description import describe
from ingest.parcels.features import read

ERROR: Final = "parcel file: "
"""Begins the line of standard error that says why a file is not read."""

RETRY: Final = "drivers to leave out: "

DRIVERS: Final = frozenset({"GPKG", "ESRI Shapefile", "GeoJSON"})

NOT_LOADED: Final = (
    "ADBC,AIVector,AVCBin,AVCE00,AmigoCloud,CSV,CSW,Carto,DGN,DXF,EDIGEO,EEDA,ESRIJSON,Elasticsearch,FlatGeobuf,GDALG,"
    "GML,GPSBabel,GPX,GTFS,GeoJSONSeq,GeoRSS,HTTP,Idrisi,JML,JSONFG,KML,LIBKML,LVBAG,MBTiles,MEM,MVT,MapInfo File,"
    "MapML,MiraMonVector,NGW,OAPIF,ODS,OGCAPI,OGR_GMT,OGR_PDS,OGR_VRT,OSM,OpenFileGDB,PCIDSK,PDF,PDS4,PGDUMP,PLSCENES,"
    "PMTiles,S57,SQLite,SXF,Selafin,TopoJSON,VDV,VFK,VICAR,WAsP,WFS,XLSX"
)
"""GDAL 3.12's other vector drivers; those of another version are found when it starts."""

MAX_MEMORY: Final = 4 << 30
"""Bytes (chosen as four times what a country's file takes: 8192 outlines of 10,000 vertices are 1.3 GB)."""
MAX_CPU_S: Final = 4 * 3600
"""Ends this process where its parent could not (chosen: far above the minutes that a country's file takes)."""


class _Unneeded:
    """Hides what pyogrio would import and nothing here uses: more than half of the time that this process takes."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name in ("geopandas", "pandas"):
            raise ModuleNotFoundError(name=name)


def main() -> None:
    """Answer the request on standard input; exit code 1 and a line that begins with ERROR where it cannot be read."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    sys.setrecursionlimit(500)
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, _Unneeded())
    task = request.pop("task")
    kind = "parquet" if request["kind"] == "parquet" else "parcel"
    what = "damaged" if task == "read" else f"not a readable {kind} file"
    try:
        _only_drivers()
        if task == "describe":
            describe(**request)
        else:
            read(**request)
    except ReadError as error:
        _stop(str(error))
    except (MemoryError, RecursionError):
        _stop(f"it needs more than {MAX_MEMORY >> 30} GB to be read")
    except Exception as error:  # noqa: BLE001  # the outermost frame of the process: any failure is one line
        _stop(f"{what}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")


def _stop(why: str) -> None:
    sys.stderr.buffer.write(f"\n{ERROR}{why}\n".encode(errors="replace"))
    sys.stderr.flush()
    os._exit(1)  # libraries in a bad state are not asked to clean up


def environment() -> dict[str, str]:
    """Return the variables that this process starts with: the drivers left out, and a proxy where nothing listens."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy", "ALL_PROXY", "GDAL_HTTP_PROXY"), "127.0.0.1:9")
    return {
        "OGR_SKIP": NOT_LOADED,
        "PROJ_NETWORK": "OFF",
        "no_proxy": "",
        "OGR_SQLITE_ALLOW_EXTERNAL_ACCESS": "NO",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        **nowhere,
    }


def _only_drivers() -> None:
    """Raise ReadError that begins with RETRY and names the drivers that this GDAL has beyond the known ones."""
    import pyogrio

    if unknown := set(pyogrio.list_drivers()) - DRIVERS:
        raise ReadError(RETRY + ",".join(sorted(unknown)))


if __name__ == "__main__":
    main()
