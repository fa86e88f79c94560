"""`parcelwatch delineate --against`: drawn fields beside known ones of a file in any system, scored stripe by stripe."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from ingest.delineation import comparison
from ingest.delineation.comparison import Known, lines, plain_values
from ingest.delineation.season import NotDelineated
from ingest.imagery.scene import Grid
from ingest.parcels.errors import ParcelFileError
from models.segmentation.delineation_scores import fit

GRID = Grid("EPSG:32631", 574_680.0, 5_622_440.0, 10.0, 64, 48)


def squares(side: int, shift: int = 0) -> list[shapely.Polygon]:
    """Return squares of some pixels that fill a part of the grid, 4 pixels from its edges."""
    places = [(row, column) for row in range(4, 40, side) for column in range(4, 56, side)]
    return [
        shapely.box(
            *(GRID.left + 10 * (c + shift), GRID.top - 10 * (r + side)),
            *(GRID.left + 10 * (c + shift + side), GRID.top - 10 * r),
        )
        for r, c in places
    ]


def stored(path: Path, outlines: list[shapely.Polygon], crs: str | None = None) -> Path:
    frame = gpd.GeoDataFrame({"id": range(len(outlines))}, geometry=outlines, crs=GRID.crs)
    frame = frame.to_crs(crs) if crs else frame
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return path


def drawn_on_grid(outlines: list[shapely.Polygon]) -> np.ndarray:
    pairs = zip(outlines, range(1, len(outlines) + 1), strict=True)
    return rasterize(pairs, (GRID.height, GRID.width), transform=GRID.transform)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "crs"), [("k.gpkg", "EPSG:31370"), ("k.geojson", "EPSG:4326"), ("k.shp", None)])
def test_a_file_in_any_system_is_scored_as_its_map(
    name: str, crs: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "ROWS", 7)  # stripes that end within fields
    ours, theirs = squares(6, shift=1), squares(12)
    found = Known.read(stored(tmp_path / name, theirs, crs), GRID).fit(stored(tmp_path / "drawn.parquet", ours))
    is_scored = np.zeros((GRID.height, GRID.width), bool)
    is_scored[4:40, 4:64] = True
    expected = fit(drawn_on_grid(ours), drawn_on_grid(theirs), is_scored)
    assert (found.known, found.drawn) == (expected.known, expected.drawn)
    assert plain_values(found) == pytest.approx(plain_values(expected))
    assert found.over > 0.5 > found.f1


def test_the_same_fields_fit(tmp_path: Path) -> None:
    path = stored(tmp_path / "drawn.gpkg", squares(12))
    found = Known.read(path, GRID).fit(path)
    assert (found.f1, found.boundary_iou, found.over, found.under, found.area, found.gtc) == (1, 1, 0, 0, 0, 0)
    assert dict(lines(found))["IoU of boundaries, within a pixel"] == "1.000"


@pytest.mark.filterwarnings("ignore:.crs. was not provided")
def test_what_cannot_be_compared_is_said_in_one_line(tmp_path: Path) -> None:
    far = stored(tmp_path / "far.gpkg", [shapely.box(0, 0, 100, 100)])
    unsaid = tmp_path / "unsaid.gpkg"
    gpd.GeoDataFrame({"id": [1]}, geometry=squares(12)[:1]).to_file(unsaid)
    damaged = tmp_path / "damaged.gpkg"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(90))
    for path, error, said in (
        (far, NotDelineated, "none of its parcels lies on the scenes"),
        (unsaid, NotDelineated, "coordinate system"),
        (damaged, ParcelFileError, "damaged.gpkg: not a readable parcel file"),
        (tmp_path / "none.gpkg", ParcelFileError, "no such file"),
    ):
        with pytest.raises(error, match=said) as raised:
            Known.read(path, GRID)
        assert "\n" not in str(raised.value)
