"""Segmenters of the windows of a season's scenes: the watershed, or a network, whose states may be kept from run to run."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from ingest.delineation.networks import FieldNetwork
from ingest.delineation.season import FINE, NotDelineated, Season
from ingest.delineation.window_states import WindowStates, key_of
from models.segmentation.delineation import Instances, Window
from models.segmentation.paps import Paps
from models.segmentation.watershed import Watershed

RED: Final = FINE.index("B04")
NEAR_INFRARED: Final = FINE.index("B08")


def by_watershed(season: Season) -> Callable[[Window], Instances]:
    """Return what draws the fields of a window without a network."""
    return lambda window: Watershed()(season.images(*window, bands=FINE), RED, NEAR_INFRARED)


class NetworkSegmenter:
    """Fields of windows by a network: a PaPs draws them, a U-TAE gives crops to those of the watershed.

    Args:
        network: what is applied.
        season: its scenes.
        starts_on: day 0.
        states: folder of what was folded in earlier runs; None: each run encodes all dates.
    """

    def __init__(self, network: FieldNetwork, season: Season, starts_on: date, states: Path | None = None) -> None:
        """Raise NotDelineated where states cannot be kept."""
        self._network, self._season, self._days = network.standardised, season, season.days(starts_on)
        self._encoded, self._states = 0, None
        if states is not None:
            if self._network.encoder.config.norm != "date":
                raise NotDelineated(
                    "--states: the norm of this network is taken over the dates of a whole season, so that no date can be folded in "
                    'by itself; leave --states out, or train with norm = "date"'
                )
            key = key_of(network.model, self._network, starts_on.isoformat())
            self._states = WindowStates(states, self._network, key)

    @property
    def encoded(self) -> int:
        """Return how many dates of windows were encoded."""
        return self._encoded if self._states is None else self._states.encoded

    def __call__(self, window: Window) -> Instances:
        """Return the fields of a window. Raises SceneError, NotDelineated."""
        levels = self._levels(window)
        if levels is None:
            return Instances(np.zeros((window.height, window.width), np.int64), np.zeros((0, self._network.classes)))
        drawn = None if isinstance(self._network.network, Paps) else by_watershed(self._season)(window)
        return self._network.fields(levels, window.height, window.width, drawn)

    def _levels(self, window: Window) -> list[Tensor] | None:
        if self._states is not None:
            return self._states.levels(window, self._season, self._days)
        images = self._season.images(*window, is_masked=False)
        is_seen = np.isfinite(images).any((1, 2, 3))
        self._encoded += int(is_seen.sum())
        return self._network.levels(images[is_seen], self._days[is_seen]) if is_seen.any() else None
