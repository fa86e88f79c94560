"""Maps read back: the contents of vector tiles, by GDAL."""

import tempfile
from pathlib import Path
from typing import Any

import pyogrio
import shapely


def features(tile: bytes, layer: str) -> list[dict[str, Any]]:
    """Return the features of a layer of a vector tile: properties, and `geom` in the tile's own units, y upwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tile.mvt"
        path.write_bytes(tile)
        names = [name for name, _ in pyogrio.list_layers(path)]
        if layer not in names:
            return []
        meta, _, wkb, columns = pyogrio.raw.read(path, layer=layer)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    named = [dict(zip(meta["fields"].tolist(), row, strict=True)) for row in rows]
    return [one | {"geom": shape} for one, shape in zip(named, shapely.from_wkb(wkb), strict=True)]
