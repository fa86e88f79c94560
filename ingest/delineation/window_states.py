"""What a network has folded of a season, window by window, kept on disk from one run to the next.

    FOLDER/{system, upper left corner and size of the window, hashed}.state
    one line of JSON: `network`, `scenes` that are folded; the state's numbers, float32; CRC-32 of the numbers

A scene more is encoded by itself. A state of another network, of scenes that are gone or have changed, or a damaged one is made anew. Files
are written beside their places and moved there, so that none is ever half a file.
"""

import hashlib
import json
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ingest.delineation.season import NotDelineated, Season
from ingest.imagery.scene import Grid
from models.segmentation import tile_state
from models.segmentation.delineation import Window
from models.segmentation.segmenters import Standardised
from models.segmentation.tile_state import TileState

LONGEST_HEAD: Final = 2**16
"""Bytes: 100 scenes of 64 digits, and room."""


@dataclass
class WindowStates:
    """The states of a network's windows in a folder."""

    folder: Path
    network: Standardised
    key: str
    """Of the network, its statistics and day 0."""
    encoded: int = 0
    """Dates of windows that were encoded so far."""

    def __post_init__(self) -> None:
        """Raise NotDelineated where the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotDelineated(f"{self.folder}: {error.strerror}; --states is a folder") from error

    def levels(self, window: Window, season: Season, days: NDArray[np.int64]) -> list[Tensor] | None:
        """Return the features of a window, coarse to fine; None where no scene has a value. Raises SceneError, NotDelineated."""
        path = self.folder / f"{_place(season.grid, window)}.state"
        size = (1, *self.network.size(window.height, window.width))
        identities = season.identities
        state, folded = self._read(path, size)
        new = _missing(identities, folded)
        if new is None:
            state, new = tile_state.initial(self.network.encoder, *size), list(range(len(identities)))
        for at in new:
            images = season.images(*window, is_masked=False, scenes=slice(at, at + 1))
            if np.isfinite(images).any():
                series, day = self.network.series(images, days[at : at + 1])
                state = tile_state.fold(self.network.encoder, state, series, day)
                self.encoded += 1
        if new:
            self._write(path, state, identities)
        return tile_state.levels(self.network.encoder, state) if state.is_seen else None

    def _read(self, path: Path, size: tuple[int, int, int]) -> tuple[TileState, list[str]]:
        """Return a state and the scenes in it; without any where there is none that can be used."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline(LONGEST_HEAD))
                numbers = np.fromfile(file, np.uint8)
            (check,) = numbers[-4:].view("<u4")
            stored = numbers[:-4].view("<f4")
            if head["network"] == self.key and zlib.crc32(stored.data) == check:
                return self._state(stored, size), [str(one) for one in head["scenes"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # as if there were none
        return self._state(np.zeros(0, np.float32), size), []

    def _state(self, stored: NDArray[Any], size: tuple[int, int, int]) -> TileState:
        if not len(stored):  # nothing was seen yet
            return tile_state.initial(self.network.encoder, *size)
        return tile_state.from_arrays(self.network.encoder, stored, size)

    def _write(self, path: Path, state: TileState, scenes: Sequence[str]) -> None:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        check = 0
        try:
            with beside.open("wb") as file:
                file.write(json.dumps({"network": self.key, "scenes": scenes}).encode() + b"\n")
                for part in tile_state.to_arrays(state) if state.is_seen else ():
                    check = zlib.crc32(np.ascontiguousarray(part).data, check)
                    part.tofile(file)
                file.write(np.array([check], "<u4").tobytes())
            beside.replace(path)
        except OSError as error:
            raise NotDelineated(f"{self.folder}: a state cannot be written: {error.strerror or error}") from error
        finally:
            beside.unlink(missing_ok=True)


def key_of(model: str, network: Standardised, starts_on: str) -> str:
    """Return what tells the states of a network from those of others."""
    digest = hashlib.sha256(f"1 {model} {starts_on} ".encode())
    digest.update(network.mean.tobytes() + network.sd.tobytes())
    return digest.hexdigest()


def _place(grid: Grid, window: Window) -> str:
    left, top = grid.left + window.column * grid.pixel_m, grid.top - window.row * grid.pixel_m
    stated = json.dumps([grid.crs, grid.pixel_m, left, top, window.height, window.width])
    return hashlib.sha256(stated.encode()).hexdigest()[:32]


def _missing(scenes: Sequence[str], folded: Sequence[str]) -> list[int] | None:
    """Return the places of scenes that are not folded yet; None where one that is folded is no longer there."""
    left = list(folded)
    new = []
    for at, one in enumerate(scenes):
        if one in left:
            left.remove(one)
        else:
            new.append(at)
    return None if left else new
