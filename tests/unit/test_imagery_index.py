"""The index of parcels on a grid: every pixel of every parcel once, the same sample everywhere, kept by content."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely

from ingest.imagery.index import CHUNK, ParcelIndex, build, load_or_build
from ingest.imagery.parcels import Parcels
from ingest.imagery.scene import Grid

GRID = Grid("EPSG:32631", 500_000.0, 5_700_000.0, 10.0, 2100, 1100)
TO_DEGREES = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)


def parcels(boxes: list[tuple[float, float, float, float]], is_monitorable: list[bool] | None = None) -> Parcels:
    """Parcels from boxes in pixels of GRID (left, top, right, bottom)."""
    outlines = []
    for left, top, right, bottom in boxes:
        metres = shapely.box(GRID.left + left * 10, GRID.top - bottom * 10, GRID.left + right * 10, GRID.top - top * 10)
        degrees = shapely.transform(metres, lambda xy: np.column_stack(TO_DEGREES.transform(xy[:, 0], xy[:, 1])))
        outlines.append(shapely.to_wkb(degrees))
    ids = [f"P{number}" for number in range(len(boxes))]
    return Parcels("test", "2023", ids, outlines, np.array(is_monitorable or [True] * len(boxes), bool))


def pixels_of(index: ParcelIndex, parcel: int) -> list[tuple[int, int]]:
    """(row, column) on the grid of all pixels of a parcel."""
    found = []
    for number in range(index.n_chunks):
        chunk = index.chunk(number)
        ends = np.append(chunk.start[1:], len(chunk.pixel))
        for segment in np.flatnonzero(chunk.parcel == parcel):
            local = chunk.pixel[chunk.start[segment] : ends[segment]]
            found += [(chunk.row + int(at) // CHUNK, chunk.column + int(at) % CHUNK) for at in local]
    return found


def sample_of(index: ParcelIndex, parcel: int, grid: Grid = GRID) -> list[tuple[int, int]]:
    """(northing, easting) in pixels of a parcel's sample, in its order."""
    found = {}
    for number in range(index.n_chunks):
        chunk = index.chunk(number)
        for place, owner, slot in zip(chunk.sampled, chunk.sampled_parcel, chunk.slot, strict=True):
            if owner == parcel:
                at = int(chunk.pixel[place])
                row, column = chunk.row + at // CHUNK, chunk.column + at % CHUNK
                found[int(slot)] = (int(grid.top / 10) - row, int(grid.left / 10) + column)
    assert sorted(found) == list(range(len(found)))
    assert len(found) == index.sample_start[parcel + 1] - index.sample_start[parcel]
    return [found[slot] for slot in range(len(found))]


# A box over the corner where four chunks meet, one that overlaps it, one in a corner of the grid.
BOXES = [(1000.2, 1000.2, 1060.2, 1080.2), (1040.2, 1010.2, 1050.2, 1090.2), (2080.2, 1080.2, 2099.7, 1099.7)]


def test_every_pixel_of_every_parcel_is_there_once_within_the_buffer() -> None:
    index = build(parcels(BOXES), GRID, 5.0, 8, 64)
    for number, (left, top, right, bottom) in enumerate(BOXES):
        # Half a pixel off each side, then the centres inside.
        rows = [row for row in range(1100) if top + 0.5 <= row + 0.5 < bottom - 0.5]
        columns = [column for column in range(2100) if left + 0.5 <= column + 0.5 < right - 0.5]
        found = pixels_of(index, number)
        assert sorted(found) == [(row, column) for row in rows for column in columns]
        assert index.n_pixels[number] == index.n_inside[number] == len(found)
    assert index.n_chunks == 5  # of six


def test_parcels_without_enough_pixels_have_none() -> None:
    given = parcels([*BOXES, (5.2, 5.2, 8.9, 8.9), (-30.2, 20.2, 2.9, 60.2), (-900.0, 20.0, -800.0, 60.0)])
    index = build(replace(given, is_monitorable=np.array([True, False, True, True, True, True])), GRID, 5.0, 100, 64)
    assert index.n_pixels[1] == 0
    assert index.n_pixels[3] == index.n_inside[3] == 4
    assert (index.n_pixels[4], index.n_inside[4]) == (32 * 39, 2 * 39)
    assert index.n_pixels[5] > 0
    assert index.n_inside[5] == 0
    assert [bool(pixels_of(index, number)) for number in range(6)] == [True, False, True, False, False, False]


def test_samples_are_the_same_on_another_grid_and_beside_other_parcels() -> None:
    here = build(parcels(BOXES), GRID, 5.0, 8, 64)
    shifted = Grid(GRID.crs, GRID.left - 7_770.0, GRID.top + 330.0, 10.0, 4000, 1300)
    there = build(parcels(BOXES), shifted, 5.0, 8, 64)
    alone = build(parcels(BOXES[:1]), GRID, 5.0, 8, 64)
    assert len(sample_of(here, 0)) == 64
    assert sample_of(here, 0) == sample_of(there, 0, shifted) == sample_of(alone, 0)
    assert sample_of(build(parcels(BOXES), GRID, 5.0, 8, 16), 0) == sample_of(here, 0)[:16]
    assert len(sample_of(build(parcels(BOXES), GRID, 5.0, 8, 4096), 2)) == here.n_inside[2]


def test_samples_are_spread_over_the_parcel() -> None:
    index = build(parcels([(100.2, 100.2, 200.2, 200.2)]), GRID, 5.0, 8, 64)
    rows, columns = np.array(sample_of(index, 0)).T
    # 64 of 100 x 100 pixels at random: means within 5 standard errors (100 / sqrt(12) / 8 = 3.6) of the middle.
    assert abs(rows.mean() - (GRID.top / 10 - 150)) < 18
    assert abs(columns.mean() - (GRID.left / 10 + 150)) < 18
    assert rows.std() > 20
    assert columns.std() > 20


def test_index_is_kept_until_something_changes(tmp_path: Path) -> None:
    given = parcels(BOXES)
    first = load_or_build(given, GRID, 5.0, 8, 64, tmp_path)
    kept = list(tmp_path.iterdir())
    again = load_or_build(given, GRID, 5.0, 8, 64, tmp_path)
    assert list(tmp_path.iterdir()) == kept
    for one in fields(ParcelIndex):
        assert np.array_equal(getattr(first, one.name), getattr(again, one.name))
    load_or_build(parcels([(1000.2, 1000.2, 1060.2, 1081.2), *BOXES[1:]]), GRID, 5.0, 8, 64, tmp_path)
    load_or_build(given, GRID, 10.0, 8, 64, tmp_path)
    load_or_build(replace(given, ids=["P0", "P1", "other"]), GRID, 5.0, 8, 64, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_two_threads_may_build_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, savez, is_first = parcels(BOXES), np.savez, iter([True])

    def other_meanwhile(*arguments: Any, **named: Any) -> None:
        savez(*arguments, **named)
        if next(is_first, False):
            load_or_build(given, GRID, 5.0, 8, 64, tmp_path)

    monkeypatch.setattr(np, "savez", other_meanwhile)
    load_or_build(given, GRID, 5.0, 8, 64, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_index_is_built_anew(tmp_path: Path) -> None:
    given = parcels(BOXES)
    expected = load_or_build(given, GRID, 5.0, 8, 64, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(load_or_build(given, GRID, 5.0, 8, 64, tmp_path).pixel, expected.pixel)


def test_no_parcels_make_an_empty_index() -> None:
    assert build(parcels([]), GRID, 5.0, 8, 64).n_chunks == 0
    assert build(parcels([(-90.0, 0.0, -50.0, 40.0)]), GRID, 5.0, 8, 64).n_chunks == 0


def test_parcels_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 ids, 1 outlines"):
        Parcels("test", "2023", ["a", "b"], [None], np.array([True]))
