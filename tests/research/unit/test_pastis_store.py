"""The packed store: cut once, again when its files change or it is not whole, by one process, where there is room."""

import fcntl
import threading
from pathlib import Path

import numpy as np
import pytest

from research.experiments import pastis
from research.experiments.pastis_store import CACHE
from research.experiments.pastis_synthetic import FIRST_ID, Landscape, write_patches
from training.patch_metadata import PastisError

SMALL = Landscape(patches=3, side=24, fields=3, dates=(6, 7, 8), classes=(1, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_patches(tmp_path / "pastis", SMALL)


class Cuts:
    """Counts the patches that were cut."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.done.append((done, total))


def test_store_is_cut_once_and_again_when_files_change(folder: Path) -> None:
    cuts = Cuts()
    first = pastis.read(folder, progress=cuts)
    assert cuts.done == [(1, 3), (2, 3), (3, 3)]
    again = pastis.read(folder, progress=cuts)
    assert len(cuts.done) == 3
    np.testing.assert_array_equal(first.observations["s2"].pixels, again.observations["s2"].pixels)
    path = folder / "DATA_S2" / f"S2_{FIRST_ID}.npy"
    np.save(path, np.load(path) + 1)
    newer = pastis.read(folder, progress=cuts).observations["s2"]
    assert len(cuts.done) == 6
    assert newer.pixels[0, 0, 0] == first.observations["s2"].pixels[0, 0, 0] + 1


@pytest.mark.parametrize("file", ["s2.pixels", "s1a.day", "parcels.npz", "store.json"])
def test_store_that_is_not_whole_is_cut_again(folder: Path, file: str) -> None:
    before = pastis.read(folder).observations["s2"].pixels[:].copy()
    (path,) = (folder / CACHE).glob(f"*/{file}")
    path.write_bytes(path.read_bytes()[:-2])
    cuts = Cuts()
    np.testing.assert_array_equal(pastis.read(folder, progress=cuts).observations["s2"].pixels, before)
    assert len(cuts.done) == 3


def test_nothing_is_left_of_a_cut_that_was_interrupted(folder: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pastis.read(folder, progress=interrupt)
    assert [one.name for one in (folder / CACHE).iterdir()] == ["lock"]
    assert len(pastis.read(folder))


def test_store_goes_to_the_users_cache_where_the_folder_is_not_to_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (folder / CACHE).write_text("")  # a file: no folder can be made there
    pastis.read(folder)
    assert list((tmp_path / "home" / ".cache" / "parcelwatch" / "pastis").glob("patches-*/store.json"))


def test_no_room_is_said_before_the_cutting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("research.experiments.pastis_store.shutil.disk_usage", lambda _: usage)
    with pytest.raises(PastisError, match=r"0\.0 GB of pixel sets, 0\.0 GB free; make room"):
        pastis.read(folder, progress=lambda *_: pytest.fail("cut"))


def test_second_process_waits_and_takes_what_the_first_cut(folder: Path) -> None:
    (folder / CACHE).mkdir()
    is_waiting, answer = threading.Event(), []
    with (folder / CACHE / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        reader = threading.Thread(target=lambda: answer.append(pastis.read(folder, notice=lambda _: is_waiting.set())))
        reader.start()
        assert is_waiting.wait(5)
        assert not answer
    reader.join(10)
    cuts = Cuts()
    assert len(answer[0]) == len(pastis.read(folder, progress=cuts))
    assert not cuts.done
