"""Patches for networks of pixels: what is read equals what numpy reads, standardised by training folds; what the simulator writes."""

from pathlib import Path

import numpy as np
import pytest

from models.segmentation.targets import targets
from research.experiments import pastis_simulated
from research.experiments.pastis_images import PastisImages
from research.experiments.pastis_simulated import CLASS_OF, Simulated, write_simulated
from research.experiments.pastis_synthetic import FIRST_ID, Landscape, write_patches
from research.simulator.crops import CROPS
from training.patch_images import read
from training.patch_metadata import VOID, PastisError
from training.patches import TURNS, Loading, Patch, rows_of, training_folds, turned
from training.sources import PATCHES, class_of

SMALL = Landscape(patches=5, side=24, fields=3, dates=(6, 7, 8), classes=(1, 3))
NAMES = ("s2", "s1a", "s1d")
SIMULATED = Simulated(patches=4, side=64, dates=(5, 4, 3), cloud=0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patches(tmp_path_factory.mktemp("made") / "pastis", SMALL)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simulated(tmp_path_factory.mktemp("simulated") / "pastis", SIMULATED)


def loading(folder: Path, workers: int = 0, has_fields: bool = False, folds: tuple[int, ...] = (2, 3, 4)) -> Loading:
    patches = read(folder)
    return Loading(patches, NAMES, patches.statistics(folds), 2, workers, has_fields)


def test_images_are_standardised_by_the_training_folds(made: Path) -> None:
    training, validation, test = rows_of(read(made), 1)
    assert (training.tolist(), validation.tolist(), test.tolist()) == ([1, 2, 3], [4], [0])
    assert training_folds(1) == (2, 3, 4)
    found = loading(made).sample(0)
    for name, sensor in zip(NAMES, ("S2", "S1A", "S1D"), strict=True):
        raw = np.load(made / f"DATA_{sensor}" / f"{sensor}_{FIRST_ID}.npy").astype(float)
        # Folds of one patch each and of one size: the mean over folds of their means and deviations.
        others = [np.load(made / f"DATA_{sensor}" / f"{sensor}_{FIRST_ID + row}.npy").astype(float) for row in training]
        mean, sd = (np.mean([what(one, (0, 2, 3)) for one in others], 0) for what in (np.mean, np.std))
        expected = (raw - mean[:, None, None]) / sd[:, None, None]
        np.testing.assert_allclose(found.batch[name].images[0].numpy(), expected, atol=0.02)  # radar is kept to 0.01 dB
    np.testing.assert_array_equal(found.classes[0], np.load(made / "ANNOTATIONS" / f"TARGET_{FIRST_ID}.npy")[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_padded_and_do_not_depend_on_who_reads(made: Path, simulated: Path, workers: int) -> None:
    batches = list(loading(made, workers, has_fields=True).batches([4, 0, 2]))
    assert [len(one.classes) for one in batches] == [2, 1]
    alone = loading(made).sample(2)
    np.testing.assert_array_equal(batches[1].batch["s1d"].images, alone.batch["s1d"].images)
    fields = batches[1].truth
    assert fields is not None
    target, ids = (np.load(made / "ANNOTATIONS" / f"{name}_{FIRST_ID + 2}.npy") for name in ("TARGET", "ParcelIDs"))
    np.testing.assert_array_equal(fields.heatmap[0], targets(ids, target[0]).heatmap)
    uneven = list(loading(simulated, workers, folds=(1, 2)).batches(range(4)))
    for one in uneven:
        for series in one.batch.values():
            assert not series.images[~series.valid].any()
            assert series.valid.any(1).all()


def test_a_patch_is_turned_with_its_maps(made: Path) -> None:
    whole = loading(made, has_fields=True)
    (plain,) = whole.batches([1])
    found = {}
    for turn in range(TURNS):
        (one,) = whole.batches([1], [turn])
        found[turn] = one.classes.numpy().tobytes()
        # What a pixel shows goes with what it is: a class is where its images are.
        for crop in np.unique(plain.classes.numpy()):
            as_it_is, as_turned = (
                np.sort(loaded.batch["s2"].images[0, 0, 0][loaded.classes[0] == crop].numpy())
                for loaded in (plain, one)
            )
            np.testing.assert_array_equal(as_it_is, as_turned)
        assert one.truth is not None
        assert (one.truth.heatmap == 1).sum() == np.count_nonzero(np.unique(one.instances.numpy()))
    assert len(set(found.values())) == TURNS
    assert found[0] == plain.classes.numpy().tobytes()
    with_columns = Patch(
        {"s2": np.zeros((1, 1, 2, 3), np.float32)}, {}, np.arange(6).reshape(2, 3), np.zeros((2, 3), int)
    )
    assert [turned(with_columns, turn).classes.shape for turn in range(TURNS)] == [(2, 3)] * TURNS


def test_patches_are_the_same_however_many_are_drawn_at_once(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pastis_simulated, "AT_ONCE", 1)
    again = write_simulated(tmp_path / "pastis", SIMULATED)
    for path in simulated.rglob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(again / path.relative_to(simulated)))


def test_simulated_patches_have_fields_with_seasons_of_their_crops(simulated: Path) -> None:
    assert set(CLASS_OF) == {one.key for one in CROPS}
    patches = read(simulated)
    assert patches.fold.tolist() == [1, 1, 2, 2]
    for row in range(4):
        patch = patches.read(row, NAMES)
        assert [len(patch.days[name]) for name in NAMES] == [5, 4, 3]
        assert all((np.diff(days) > 0).all() for days in patch.days.values())
        fields = patch.instances[patch.instances > 0]
        assert len(np.unique(fields)) >= 3
        for one in np.unique(fields):
            inside = patch.instances == one
            assert len(set(patch.classes[inside])) == 1
        assert (patch.classes[patch.instances == 0] == 0).all()
        # Between fields nothing changes, within them something does.
        ndvi = (patch.images["s2"][:, 6] - patch.images["s2"][:, 2]) / (
            patch.images["s2"][:, 6] + patch.images["s2"][:, 2]
        )
        swing = np.nanmax(ndvi, 0) - np.nanmin(ndvi, 0)
        assert np.median(swing[patch.classes > 0]) > 2 * np.median(swing[patch.classes == 0])
    first, other = (np.load(simulated / "DATA_S1A" / f"S1A_{FIRST_ID + one}.npy") for one in (0, 2))
    assert not np.array_equal(first, other)
    void = [patches.read(row, NAMES).classes == VOID for row in range(4)]
    assert any(one.any() for one in void)


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    assert class_of("pastis", PATCHES) is PastisImages
    with pytest.raises(PastisError, match="no such folder"):
        read(tmp_path / "none")
    folder = write_patches(tmp_path / "broken", SMALL)
    path = folder / "DATA_S1A" / f"S1A_{FIRST_ID}.npy"
    np.save(path, np.load(path)[1:])
    with pytest.raises(PastisError, match=r"S1A_10000.npy: 6 dates, but metadata.geojson has 7"):
        read(folder)
    (folder / "NORM_S2_patch.json").unlink()
    np.save(path, np.zeros((7, 3, 24, 24), np.float32))
    with pytest.raises(PastisError, match="NORM_S2_patch"):
        read(folder).statistics((1, 2))
    with pytest.raises(ValueError, match="0 patches of 128 pixels"):
        write_simulated(tmp_path / "few", Simulated(patches=0))
