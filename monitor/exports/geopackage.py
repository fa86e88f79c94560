"""The process that writes a GeoPackage: parcels as an Arrow stream on standard input, the file's path as its argument."""

import sys


def main() -> None:
    """Write the file; exit code 1 and a line on standard error where that fails."""
    import pyarrow as pa
    import pyogrio

    try:
        with pa.ipc.open_stream(sys.stdin.buffer) as parcels:
            pyogrio.write_arrow(
                parcels,
                sys.argv[1],
                driver="GPKG",
                layer="parcels",
                geometry_name="geometry",
                geometry_type="MultiPolygon",
                crs="EPSG:4326",
            )
    except (OSError, RuntimeError, pa.ArrowException) as error:
        sys.exit((str(error).strip().splitlines() or [type(error).__name__])[0])
