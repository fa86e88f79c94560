"""PASTIS-R as patches: what is cut equals what numpy reads, folds and labels, broken folders in one line."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.classifier.normalisation import Normaliser
from research.experiments import pastis
from research.experiments.pastis_store import Options
from research.experiments.pastis_synthetic import FIRST_ID, Landscape, write_patches
from training.labelled import NO_LABEL, masks
from training.patch_metadata import CLASSES, INVALID, PastisError, published_normaliser

SMALL = Landscape(patches=3, side=24, fields=3, dates=(6, 7, 8), classes=(1, 3))
ALL = Options(pixels=24 * 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_patches(tmp_path / "pastis", SMALL)


def images(folder: Path, sensor: str, patch: int) -> np.ndarray:
    return np.asarray(np.load(folder / f"DATA_{sensor}" / f"{sensor}_{patch}.npy"))


def annotations(folder: Path, patch: int) -> tuple[np.ndarray, np.ndarray]:
    at = folder / "ANNOTATIONS"
    return np.load(at / f"ParcelIDs_{patch}.npy"), np.load(at / f"TARGET_{patch}.npy")[0]


def expected_parcels(folder: Path, patches: int = SMALL.patches) -> list[tuple[int, int, int]]:
    """(patch, parcel id, class) of every parcel of the 18 classes, looked up pixel by pixel."""
    found = []
    for patch in range(FIRST_ID, FIRST_ID + patches):
        ids, target = annotations(folder, patch)
        found += [(patch, one, int(target[ids == one][0])) for one in sorted(set(ids[ids > 0].tolist()))]
    return [one for one in found if one[2] != 19]


def test_labels_folds_and_blocks(folder: Path) -> None:
    data = pastis.read(folder)
    expected = expected_parcels(folder)
    assert data.labels.tolist() == [label - 1 for _, _, label in expected]
    assert data.block.tolist() == [patch for patch, _, _ in expected]
    assert data.fold.tolist() == [patch - FIRST_ID + 1 for patch, _, _ in expected]
    assert data.classes == CLASSES
    assert len(CLASSES) == 18
    assert [(one.name, one.temporal_dropout, one.pixels) for one in data.modalities] == [
        ("s2", 0.4, 64),
        ("s1a", 0.2, 64),
        ("s1d", 0.2, 64),
    ]
    training, validation, test = masks(data, 3)
    assert set(data.fold[training]) == {1}
    assert set(data.fold[validation]) == {2}
    assert set(data.fold[test]) == {3}


@pytest.mark.parametrize(("modality", "sensor", "to_raw"), [("s2", "S2", 1), ("s1a", "S1A", 100), ("s1d", "S1D", 100)])
def test_pixels_are_those_of_the_arrays(folder: Path, modality: str, sensor: str, to_raw: int) -> None:
    observed = pastis.read(folder, options=ALL).observations[modality]
    assert isinstance(observed.pixels, np.memmap)
    assert (np.diff(observed.parcel) >= 0).all()
    for row, (patch, parcel, _) in enumerate(expected_parcels(folder)):
        own = images(folder, sensor, patch)[:, :, annotations(folder, patch)[0] == parcel]  # (T, C, n)
        mine = observed.pixels[observed.parcel == row]
        n = own.shape[2]
        np.testing.assert_array_equal(mine[:, :, :n], np.rint(own.astype(np.float32) * to_raw))
        assert (mine[:, :, n:] == INVALID).all()
        assert np.isnan(observed.physical(observed.parcel == row)[:, :, n:]).all()


def test_physical_units(folder: Path) -> None:
    data = pastis.read(folder, options=ALL)
    first = expected_parcels(folder)[0]
    inside = annotations(folder, first[0])[0] == first[1]
    for modality, sensor, unit, half_step in (("s2", "S2", 1e-4, 1e-6), ("s1d", "S1D", 1.0, 0.00501)):
        one = data.observations[modality]
        own = images(folder, sensor, first[0])[:, :, inside].astype(np.float64) * unit
        np.testing.assert_allclose(one.physical(one.parcel == 0)[:, :, : inside.sum()], own, atol=half_step)


def test_days_count_from_september_2018(folder: Path) -> None:
    data = pastis.read(folder)
    metadata = json.loads((folder / "metadata.geojson").read_text())
    stated = np.array(list(metadata["features"][0]["properties"]["dates-S1A"].values()))
    as_days = (
        np.array([f"{one}"[:4] + "-" + f"{one}"[4:6] + "-" + f"{one}"[6:] for one in stated], "M8[D]")
        - np.datetime64("2018-09-01")
    ).astype(int)
    one = data.observations["s1a"]
    assert one.day[one.parcel == 0].tolist() == as_days.tolist()
    inner = dict(zip(data.day_names, data.scored_on, strict=True))
    assert inner["30 Apr"] == 241
    assert data.scored_on[-1] == max(float(one.day.max()) for one in data.observations.values())
    assert data.observed_by(data.scored_on[-1]).all()


def test_sampled_pixels_are_the_same_of_every_date_and_sensor(folder: Path) -> None:
    number = np.arange(24 * 24).reshape(24, 24)
    for patch in range(FIRST_ID, FIRST_ID + 3):
        for sensor, step in (("S2", 1), ("S1A", 0.25), ("S1D", 0.25)):  # exact in float16
            path = folder / f"DATA_{sensor}" / f"{sensor}_{patch}.npy"
            old = np.load(path)
            np.save(path, np.broadcast_to(number * step, old.shape).astype(old.dtype))
    data = pastis.read(folder, options=Options(pixels=5))
    sizes = []
    for row, (patch, parcel, _) in enumerate(expected_parcels(folder)):
        ids = annotations(folder, patch)[0].ravel()
        taken = [
            (one := data.observations[m]).pixels[one.parcel == row] / step
            for m, step in (("s2", 1), ("s1a", 25), ("s1d", 25))
        ]
        chosen = taken[0][0, 0]
        for one in taken:
            valid = one[:, :, : min(5, (ids == parcel).sum())]
            assert (valid == chosen[: valid.shape[2]]).all()
        known = chosen[chosen >= 0].astype(int)
        assert (ids[known] == parcel).all()
        assert len(set(known.tolist())) == min(5, (ids == parcel).sum())
        sizes.append(len(known))
    assert max(sizes) == 5
    again = pastis.read(folder, cache=folder.parent / "other", options=Options(pixels=5)).observations["s2"].pixels
    np.testing.assert_array_equal(again, data.observations["s2"].pixels)
    other = pastis.read(folder, options=Options(pixels=5, seed=1)).observations["s2"].pixels
    assert (other != again).any()


def test_no_data_is_invalid(folder: Path) -> None:
    patch, parcel, _ = expected_parcels(folder)[0]
    where = tuple(np.argwhere(annotations(folder, patch)[0] == parcel)[0])
    for sensor, value in (("S2", -10_000), ("S1A", np.nan), ("S1D", -np.inf)):
        changed = images(folder, sensor, patch)
        changed[2, 1, *where] = value
        np.save(folder / f"DATA_{sensor}" / f"{sensor}_{patch}.npy", changed)
    for one in pastis.read(folder, options=ALL).observations.values():
        assert one.pixels[2, 1, 0] == INVALID
        assert one.pixels[1, 1, 0] != INVALID


def test_shapes_of_fields() -> None:
    field = np.zeros((60, 80), int)
    field[10:30, 5:55] = 1  # 200 m x 500 m
    rows, columns = np.indices(field.shape)
    field[np.abs(rows - 45) + np.abs(columns - 60) <= 14] = 2  # a square on its corner, diagonals of 290 m
    (perimeter, area, ratio, fill), tilted = pastis.shapes(field, 2)
    assert area == 100_000
    assert perimeter == pytest.approx(1400, rel=0.08)
    assert ratio == perimeter / area
    assert fill == 1.0
    assert tilted[0] == pytest.approx(4 * 290 / 2**0.5, rel=0.08)
    assert tilted[3] == pytest.approx(0.5, abs=0.02)


def test_background_and_void_are_kept_without_a_label_if_asked_for(folder: Path) -> None:
    data, all_of_them = pastis.read(folder), pastis.read(folder, options=Options(unlabelled=True))
    assert len(all_of_them) == len(data) + SMALL.patches
    assert all_of_them.labels[all_of_them.is_labelled].tolist() == data.labels.tolist()
    assert set(all_of_them.labels[~all_of_them.is_labelled]) == {NO_LABEL}


def test_without_radar(folder: Path) -> None:
    for sensor in ("S1A", "S1D"):
        (folder / f"DATA_{sensor}").rename(folder / f"other_{sensor}")
    lines: list[str] = []
    data = pastis.read(folder, notice=lines.append)
    assert [one.name for one in data.modalities] == ["s2"]
    assert lines == ["pastis: without S1A, S1D; fusion of all three needs PASTIS-R whole"]
    with pytest.raises(PastisError, match=r"no folder DATA_S1A; download PASTIS-R, or ask for S2"):
        pastis.read(folder, options=Options(sensors=("S2", "S1A")))


def resave(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder / name, change(np.load(folder / name)))


def edit(folder: Path, **properties: object) -> None:
    path = folder / "metadata.geojson"
    metadata = json.loads(path.read_text())
    metadata["features"][1]["properties"].update(properties)
    path.write_text(json.dumps(metadata))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no array": (lambda f: (f / "DATA_S1D/S1D_10001.npy").unlink(), r"S1D_10001\.npy: no such file"),
    "no annotation": (lambda f: (f / "ANNOTATIONS/TARGET_10001.npy").unlink(), r"TARGET_10001\.npy: no such file"),
    "half an array": (
        lambda f: (f / "DATA_S2/S2_10001.npy").write_bytes(b"\x93NUMPY"),
        r"S2_10001\.npy: not a whole \.npy",
    ),
    "cut off": (
        lambda f: (f / "DATA_S2/S2_10001.npy").write_bytes((f / "DATA_S2/S2_10001.npy").read_bytes()[:-9]),
        r"S2_10001\.npy: not a whole \.npy",
    ),
    "bands": (
        lambda f: resave(f, "DATA_S2/S2_10001.npy", lambda a: a[:, :9]),
        r"S2_10001\.npy: int16 \(6, 9, 24, 24\); .* expected: numbers \(any, 10, 24, 24\)",
    ),
    "size": (
        lambda f: resave(f, "DATA_S1A/S1A_10001.npy", lambda a: a[..., :20]),
        r"S1A_10001\.npy: float16 \(7, 3, 24, 20\)",
    ),
    "dates": (
        lambda f: resave(f, "DATA_S1A/S1A_10001.npy", lambda a: a[1:]),
        r"S1A_10001\.npy: 6 dates, but metadata\.geojson has 7 in dates-S1A",
    ),
    "date": (lambda f: edit(f, **{"dates-S2": {"0": 20191301}}), r"patch 10001: dates-S2: .*month"),
    "year": (
        lambda f: edit(f, **{"dates-S2": {"0": 20290101}}),
        r"patch 10001: dates-S2: a date is 3775 days from 2018-09-01",
    ),
    "no dates": (lambda f: edit(f, **{"dates-S2": None}), r"patch 10001: dates-S2: it is None"),
    "classes": (
        lambda f: resave(f, "ANNOTATIONS/TARGET_10001.npy", lambda a: a + 10),
        r"TARGET_10001\.npy: classes 10 to 29",
    ),
}


@pytest.mark.parametrize(("fault", "message"), BROKEN.values(), ids=list(BROKEN))
def test_broken_patch_stops_before_the_cutting_or_is_left_out(
    folder: Path, fault: Callable[[Path], object], message: str
) -> None:
    fault(folder)
    with pytest.raises(PastisError, match=message + r".*1 of 3 patches cannot be used.*skip_broken") as error:
        pastis.read(folder, progress=lambda *_: pytest.fail("cut"))
    assert "\n" not in str(error.value)
    for _ in range(2):  # also when the store is there
        lines: list[str] = []
        data = pastis.read(folder, options=Options(skip_broken=True), notice=lines.append)
        assert set(data.block) == {10000, 10002}
        assert re.search("1 of 3 patches left out, the first: .*" + message, lines[0])


def test_radar_that_is_not_in_decibels(folder: Path) -> None:
    resave(folder, "DATA_S1A/S1A_10002.npy", lambda a: a * 0 + 4000)
    with pytest.raises(PastisError, match=r"S1A_10002\.npy: values up to 4000; decibels expected"):
        pastis.read(folder)


def test_folders_that_are_no_pastis(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PastisError, match=r"nowhere: no such folder; give a PASTIS-R folder"):
        pastis.read(tmp_path / "nowhere")
    with pytest.raises(PastisError, match=r"no DATA_S2, DATA_S1A or DATA_S1D"):
        pastis.read(tmp_path)
    edit(folder, Fold=7)
    with pytest.raises(PastisError, match=r"metadata\.geojson: patch 10001 is in fold 7"):
        pastis.read(folder)
    (folder / "metadata.geojson").write_text("{")
    with pytest.raises(PastisError, match=r"metadata\.geojson: not JSON"):
        pastis.read(folder)
    (folder / "metadata.geojson").unlink()
    with pytest.raises(PastisError, match=r"metadata\.geojson: no such file"):
        pastis.read(folder)


def test_folder_without_a_parcel_of_a_class(folder: Path) -> None:
    for path in (folder / "ANNOTATIONS").glob("TARGET_*"):
        np.save(path, np.load(path) * 0)
    with pytest.raises(PastisError, match="pastis: nothing was observed of a parcel of the 18 classes"):
        pastis.read(folder)


def test_dates_as_gdal_writes_them(folder: Path) -> None:
    plain = pastis.read(folder).observations["s2"].day
    metadata = json.loads((folder / "metadata.geojson").read_text())
    dates = metadata["features"][1]["properties"]["dates-S2"]
    edit(folder, **{"dates-S2": str({key: str(dates[key]) for key in reversed(dates)})})
    np.testing.assert_array_equal(pastis.read(folder).observations["s2"].day, plain)


def test_published_statistics_are_the_mean_over_the_training_folds(folder: Path) -> None:
    geometry = pastis.read(folder).geometry
    normaliser = published_normaliser(folder, [1, 3], geometry)
    plain = {name: json.loads((folder / f"NORM_{name}_patch.json").read_text()) for name in ("S2", "S1A")}
    for name, unit in (("S2", 1e-4), ("S1A", 1.0)):
        expected = {
            what: [
                (a + b) / 2 * unit
                for a, b in zip(plain[name]["Fold_1"][what], plain[name]["Fold_3"][what], strict=True)
            ]
            for what in ("mean", "std")
        }
        assert normaliser.modalities[name.lower()].overall.mean == pytest.approx(expected["mean"])
        assert normaliser.modalities[name.lower()].overall.sd == pytest.approx(expected["std"])
    assert normaliser.geometry == Normaliser.fit({}, geometry, np.ones(len(geometry), bool)).geometry
    with pytest.raises(PastisError, match=r"NORM_S2_patch\.json: no statistics of folds \[5\]"):
        published_normaliser(folder, [5], geometry)


def test_statistics_and_batches_are_taken_from_the_mapped_store(tmp_path: Path) -> None:
    folder = write_patches(tmp_path / "flat", replace(SMALL, patches=2))
    data = pastis.read(folder, options=ALL)
    normaliser = Normaliser.fit(data.observations, data.geometry, data.fold == 1)
    of_first = [parcel for _, parcel, _ in expected_parcels(folder, patches=1)]
    own = images(folder, "S2", FIRST_ID)[:, :, np.isin(annotations(folder, FIRST_ID)[0], of_first)] * 1e-4
    assert normaliser.modalities["s2"].overall.mean == pytest.approx(own.mean(axis=(0, 2)), rel=1e-5)
    batch = normaliser.batch(data.observations, data.geometry)
    assert batch.series["s2"].valid.sum() > 0
    assert bool(batch.series["s1d"].pixels.isfinite().all())
