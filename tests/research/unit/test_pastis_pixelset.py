"""PASTIS-R as pixel sets: the same parcels as in the patches, tolerance where the archive could not be verified, errors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from research.experiments import pastis, pastis_pixelset
from research.experiments.pastis_store import Options
from research.experiments.pastis_synthetic import Landscape, write_patches, write_pixel_sets
from training.patch_metadata import INVALID, PastisError, published_normaliser

SMALL = Landscape(patches=3, side=24, fields=3, dates=(6, 7, 8), classes=(1, 3))
ALL = Options(pixels=24 * 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pixel_sets(tmp_path / "pixelset", SMALL)


def parcels(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metadata_parcel.csv")


def edit(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(parcels(folder)).to_csv(folder / "metadata_parcel.csv", index=False)


def resave(folder: Path, sensor: str, parcel: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / f"DATA_{sensor}" / f"{sensor}_{parcel}.npy"
    np.save(path, change(np.load(path)))


def test_both_forms_give_the_same_parcels(folder: Path, tmp_path: Path) -> None:
    sets = pastis_pixelset.read(folder, options=ALL)
    cut = pastis.read(write_patches(tmp_path / "patches", SMALL), options=ALL)
    assert sets.labels.tolist() == cut.labels.tolist()
    assert sets.fold.tolist() == cut.fold.tolist()
    assert sets.block.tolist() == cut.block.tolist()
    assert (sets.scored_on, sets.classes) == (cut.scored_on, cut.classes)
    assert [replace(one, is_co_located=True) for one in sets.modalities] == list(cut.modalities)
    np.testing.assert_allclose(sets.geometry, cut.geometry)
    for name, one in cut.observations.items():
        for column in ("pixels", "day", "parcel", "orbit"):
            np.testing.assert_array_equal(getattr(sets.observations[name], column), getattr(one, column))


def test_sampled_pixels_are_the_same_of_every_date_and_sensor(folder: Path) -> None:
    for parcel in parcels(folder)["ID_PARCEL"]:
        for sensor, step in (("S2", 1), ("S1A", 0.25), ("S1D", 0.25)):  # exact in float16
            path = folder / f"DATA_{sensor}" / f"{sensor}_{parcel}.npy"
            old = np.load(path)
            np.save(path, np.broadcast_to(np.arange(old.shape[2]) * step, old.shape).astype(old.dtype))
    data = pastis_pixelset.read(folder, options=Options(pixels=4))
    s2, s1d = data.observations["s2"], data.observations["s1d"]
    for row in range(len(data)):
        chosen = s2.pixels[s2.parcel == row][0, 0]
        assert (s2.pixels[s2.parcel == row] == chosen).all()
        assert (s1d.pixels[s1d.parcel == row] == np.where(chosen == INVALID, INVALID, chosen * 25)).all()
        assert len(set(chosen[chosen != INVALID].tolist())) == (chosen != INVALID).sum() > 0
    assert any((s2.pixels[s2.parcel == row][0, 0] > 3).any() for row in range(len(data)))  # not the first ones


def test_any_numeric_type_is_read(folder: Path) -> None:
    expected = pastis_pixelset.read(folder, options=ALL).observations["s2"].pixels[:].copy()
    kinds = (np.float32, np.float64, np.uint16)
    for row, parcel in enumerate(parcels(folder)["ID_PARCEL"]):
        path = folder / "DATA_S2" / f"S2_{parcel}.npy"
        np.save(path, np.load(path).astype(kinds[row % len(kinds)]))
    first = int(parcels(folder)["ID_PARCEL"][0])
    resave(folder, "S2", first, lambda a: np.where(np.arange(a.shape[2]) == 0, np.nan, a))
    read = pastis_pixelset.read(folder, options=ALL).observations["s2"]
    expected[read.parcel == 0, :, 0] = INVALID
    np.testing.assert_array_equal(read.pixels, expected)


def test_parcel_without_a_pixel_stays_unseen(folder: Path) -> None:
    for sensor in ("S2", "S1A", "S1D"):
        resave(folder, sensor, int(parcels(folder)["ID_PARCEL"][1]), lambda a: a[:, :, :0])
    lines: list[str] = []
    data = pastis_pixelset.read(folder, notice=lines.append)
    assert len(data) == len(parcels(folder))
    assert data.observed_by(1e6).tolist() == [row != 1 for row in range(len(data))]
    assert lines == ["pixelset: 1 parcels without a pixel stay, observed by nothing"]


def test_geometric_features_by_name_or_in_file_order(folder: Path) -> None:
    expected = pastis_pixelset.read(folder).geometry
    edit(
        folder,
        lambda f: f[["GF_fill", "GF_area", "ID_PATCH", "GF_ratio", "ID_PARCEL", "Fold", "Label", "GF_perimeter"]],
    )
    lines: list[str] = []
    np.testing.assert_allclose(pastis_pixelset.read(folder, notice=lines.append).geometry, expected)
    assert not lines
    edit(
        folder,
        lambda f: f.rename(columns={"GF_fill": "GF_0", "GF_area": "GF_1", "GF_ratio": "GF_2", "GF_perimeter": "GF_3"}),
    )
    np.testing.assert_allclose(pastis_pixelset.read(folder, notice=lines.append).geometry, expected[:, [3, 1, 2, 0]])
    assert "GF_0, GF_1, GF_2, GF_3 taken as perimeter, area, perimeter / area and fill" in lines.pop()
    edit(folder, lambda f: f.drop(columns="GF_0"))
    assert np.isnan(pastis_pixelset.read(folder, notice=lines.append).geometry).all()
    assert "3 columns GF_..., 4 expected" in lines.pop()


def test_void_parcels_are_left_out(folder: Path) -> None:
    edit(folder, lambda f: f.assign(Label=f["Label"].where(f.index > 1, 19)))
    assert len(pastis_pixelset.read(folder)) == len(parcels(folder)) - 2
    assert (~pastis_pixelset.read(folder, options=Options(unlabelled=True)).is_labelled).sum() == 2


def test_published_statistics_of_pixel_sets(folder: Path) -> None:
    normaliser = published_normaliser(folder, [2], np.ones((3, 4)))
    plain = json.loads((folder / "NORM_PARCEL_S1D_set.json").read_text())
    assert normaliser.modalities["s1d"].overall.mean == pytest.approx(plain["Fold_2"]["mean"])


BROKEN: dict[str, tuple[Callable[[Path, int], object], str]] = {
    "no array": (lambda f, p: (f / f"DATA_S1A/S1A_{p}.npy").unlink(), r"S1A_\d+\.npy: no such file"),
    "dates": (lambda f, p: resave(f, "S1A", p, lambda a: a[1:]), r"S1A_\d+\.npy: 6 dates, but metadata\.geojson has 7"),
    "channels": (
        lambda f, p: resave(f, "S2", p, lambda a: a[:, :9]),
        r"S2_\d+\.npy: int16 \(6, 9, \d+\); dates, channels, pixels",
    ),
    "patch": (
        lambda f, p: edit(f, lambda t: t.assign(ID_PATCH=t["ID_PATCH"].where(t["ID_PARCEL"] != p, 77))),
        r"metadata\.geojson: no patch 77",
    ),
}


@pytest.mark.parametrize(("fault", "message"), BROKEN.values(), ids=list(BROKEN))
def test_broken_parcel_stops_or_is_left_out(folder: Path, fault: Callable[[Path, int], object], message: str) -> None:
    parcel = int(parcels(folder)["ID_PARCEL"][2])
    fault(folder, parcel)
    with pytest.raises(PastisError, match=message + ".*skip_broken"):
        pastis_pixelset.read(folder)
    lines: list[str] = []
    data = pastis_pixelset.read(folder, options=Options(skip_broken=True), notice=lines.append)
    assert len(data) == len(parcels(folder)) - 1
    assert len(lines) == 1
    assert "left out" in lines[0]
    for one in data.observations.values():
        assert set(one.parcel) == set(range(len(data)))


TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "column": (lambda t: t.drop(columns=["Fold", "Label"]), r"no column Fold, Label; it has ID_PARCEL"),
    "twice": (lambda t: t.assign(ID_PARCEL=t["ID_PARCEL"].replace(3, 2)), r"parcel 2 is there 2 times"),
    "label": (lambda t: t.assign(Label=25), r"column Label, row 1: 25; 0 to 19 expected"),
    "fold": (lambda t: t.assign(Fold=0), r"column Fold, row 1: 0; 1 to 5 expected"),
    "no crop": (lambda t: t.assign(Label=19), r"no parcel of the 18 classes"),
    "text": (lambda t: t.assign(ID_PATCH="a"), r"column ID_PATCH, row 1: a; a whole number expected"),
}


@pytest.mark.parametrize(("change", "message"), TABLES.values(), ids=list(TABLES))
def test_tables_that_cannot_be_read(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    edit(folder, change)
    with pytest.raises(PastisError, match=r"metadata_parcel\.csv: " + message):
        pastis_pixelset.read(folder)


def test_the_other_form_is_named(tmp_path: Path) -> None:
    patches = write_patches(tmp_path / "patches", SMALL)
    with pytest.raises(PastisError, match=r"metadata_parcel\.csv: no such file; .* patch form"):
        pastis_pixelset.read(patches)
    sets = write_pixel_sets(tmp_path / "sets", SMALL)
    with pytest.raises(PastisError, match=r"ANNOTATIONS: no such folder"):
        pastis.read(sets)
