"""States of windows on disk: what they are used for, and what makes them anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingest.delineation.season import NotDelineated
from ingest.delineation.window_states import WindowStates, key_of
from ingest.imagery.scene import Grid
from models.segmentation.delineation import Window
from models.segmentation.segmenters import Standardised
from models.segmentation.utae import Utae, UtaeConfig

WINDOW = Window(32, 0, 20, 24)
GRID = Grid("EPSG:32631", 499_980.0, 5_700_000.0, 10.0, 64, 64)
FIRST = date(2025, 1, 1)


@dataclass(frozen=True)
class Made:
    """A season of images that a number each makes; scene 0 shows nothing."""

    seeds: tuple[int, ...]
    grid: Grid = GRID

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(f"scene {one}" for one in self.seeds)

    def days(self, starts_on: date) -> NDArray[np.int64]:
        return np.array([(FIRST + timedelta(days=one) - starts_on).days for one in self.seeds], np.int64)

    def images(
        self,
        row: int,  # noqa: ARG002
        column: int,  # noqa: ARG002
        height: int,
        width: int,
        *,
        is_masked: bool = True,  # noqa: ARG002
        bands: Sequence[str] | None = None,  # noqa: ARG002
        scenes: slice = slice(None),
    ) -> NDArray[np.float32]:
        made = [np.random.default_rng(one).normal(size=(3, height, width)) for one in self.seeds[scenes]]
        images = np.array(made, np.float32)
        images[:, :, :4, :6] = np.nan
        images[[one == 0 for one in self.seeds[scenes]]] = np.nan
        return images


@pytest.fixture(scope="module")
def network() -> Standardised:
    torch.manual_seed(1)
    made = Utae(UtaeConfig(3, 5, encoder=(8, 8, 16), decoder=(8, 8, 16), width=16, heads=4)).eval()
    return Standardised(made, np.full(3, 0.1, np.float32), np.full(3, 0.7, np.float32))


def encoded(folder: Path, network: Standardised, season: Made, starts_on: date = FIRST, model: str = "a") -> int:
    """Return how many dates are encoded for a window, whose logits are those of all dates at once."""
    states = WindowStates(folder, network, key_of(model, network, starts_on.isoformat()))
    days = season.days(starts_on)
    found = states.levels(WINDOW, season, days)
    images = season.images(*WINDOW)
    is_seen = np.isfinite(images).any((1, 2, 3))
    if found is None:
        assert not is_seen.any()
        return states.encoded
    head = network.network.head
    with torch.inference_mode():
        ours, theirs = (head(one[-1]) for one in (found, network.levels(images[is_seen], days[is_seen])))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return states.encoded


def test_what_is_folded_is_not_encoded_again(network: Standardised, tmp_path: Path) -> None:
    for seeds, dates in (((0,), 0), ((0, 3, 5), 2), ((0, 3, 4, 5), 1), ((3, 5, 4, 0, 9), 1), ((3, 5, 4, 0, 9), 0)):
        assert encoded(tmp_path, network, Made(seeds)) == dates
    assert encoded(tmp_path, network, Made((3, 3, 5, 4, 0, 9))) == 1  # the same scene twice, as without states


def test_another_network_season_or_place_begins_anew(network: Standardised, tmp_path: Path) -> None:
    season = Made((3, 5))
    assert encoded(tmp_path, network, season) == 2
    assert encoded(tmp_path, network, season, FIRST - timedelta(days=9)) == 2
    assert encoded(tmp_path, network, season, FIRST - timedelta(days=9), "b") == 2
    assert encoded(tmp_path, replace(network, mean=network.mean + 1), season) == 2
    assert encoded(tmp_path, network, season) == 2
    assert encoded(tmp_path, network, Made((5,))) == 1  # one is gone
    assert encoded(tmp_path, network, Made((4,))) == 1  # or has changed
    moved = replace(season, grid=replace(season.grid, left=0.0))
    assert encoded(tmp_path, network, moved) == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert encoded(tmp_path, network, Made((4,))) == 0  # each place has a file of its own


def test_a_damaged_state_is_made_anew(network: Standardised, tmp_path: Path) -> None:
    season = Made((3, 5))
    assert encoded(tmp_path, network, season) == 2
    (file,) = tmp_path.iterdir()
    whole, middle = file.read_bytes(), file.stat().st_size // 2
    flipped = bytes([whole[middle] ^ 1])
    head, numbers = whole.split(b"\n", 1)
    for damaged in (
        b"",
        b"\n",
        b"[]\n" + numbers,
        b"\xff" * 100,
        head,
        whole[:-40],
        whole[:-41],
        whole + b"more",
        whole[:middle] + flipped + whole[middle + 1 :],
        head.replace(b"scene 3", b"scene 4") + b"\n" + numbers,
        head.replace(b'"scenes"', b'"things"') + b"\n" + numbers,
    ):
        file.write_bytes(damaged)
        assert encoded(tmp_path, network, season) == 2, damaged[:80]
        assert file.read_bytes() == whole
    assert encoded(tmp_path, network, season) == 0


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    network: Standardised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encoded(tmp_path, network, Made((3,))) == 1
    monkeypatch.setattr(Path, "replace", _full)
    with pytest.raises(NotDelineated, match="a state cannot be written: No space left"):
        encoded(tmp_path, network, Made((3, 5)))
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1  # the state before
    assert encoded(tmp_path, network, Made((3, 5))) == 1


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")
