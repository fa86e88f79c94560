"""Labelled parcels of any source, ready to train and score on: what every training run and every experiment takes.

Chosen because: a stored season, a recorded folder, a simulated season and PASTIS-R differ in how they are read, and in nothing else.
Shapes: P parcels; observations packed (models.classifier.normalisation.Observations), geometry (P, 4), labels and fold (P,).
Units:  observations physical, days since the season's start, geometry m, m2, 1/m, share.
Errors: ValueError if the arrays do not belong together, or a modality is asked for that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations

NO_LABEL = -1

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledParcels:
    """Parcels with their observations, their classes and the fold that each is tested in."""

    name: str
    """Of the source, for tables and plots."""
    observations: Mapping[str, Observations]
    geometry: NDArray[np.float64]
    """(P, 4), NaN where unknown."""
    labels: NDArray[np.int64]
    """(P,) index into `classes`, NO_LABEL for a parcel that is neither trained nor scored on."""
    classes: tuple[str, ...]
    modalities: tuple[ModalityConfig, ...]
    fold: NDArray[np.int64]
    """(P,) 1..5: the source's official folds, or blocked in space."""
    block: NDArray[np.int64]
    """(P,) number of the spatial unit that must not be split between training and validation."""
    scored_on: tuple[float, ...]
    """Days of the season at whose end scores are taken, ascending; the last one is the end of the season."""
    day_names: tuple[str, ...]
    """A name for each of `scored_on`, such as "30 Apr"."""
    parcel_ids: NDArray[Any] | None = None
    """(P,) ids of the source as text, unique; None: the rows' numbers."""
    starts_on: date | None = None
    """Day 0, where the source knows it."""
    about: Mapping[str, object] = field(default_factory=dict)
    """Origin of the parcels, for the description of a model of all of them."""

    def __post_init__(self) -> None:
        n = len(self.labels)
        if not len(self.geometry) == len(self.fold) == len(self.block) == n:
            raise ValueError(
                f"{self.name}: {n} labels, {len(self.geometry)} geometries, {len(self.fold)} folds; one each"
            )
        if missing := {one.name for one in self.modalities} - set(self.observations):
            raise ValueError(f"{self.name}: no observations of {', '.join(sorted(missing))}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Return (P,) parcels that are trained and scored on."""
        return np.asarray(self.labels != NO_LABEL)

    def of(self, modalities: Sequence[str]) -> LabelledParcels:
        """Return the same parcels seen by some modalities only, in that order.

        Raises:
            ValueError: a modality is not there.
        """
        known = {one.name: one for one in self.modalities}
        if missing := [name for name in modalities if name not in known]:
            raise ValueError(f"{self.name} has no modality {', '.join(missing)}, only {', '.join(known)}")
        return replace(
            self,
            modalities=tuple(known[name] for name in modalities),
            observations={name: self.observations[name] for name in modalities},
        )

    def observed_by(self, day: float) -> NDArray[np.bool_]:
        """Return (P,) parcels of which anything was known at the end of a day."""
        seen = np.zeros(len(self), bool)
        for one in self.observations.values():
            seen[one.parcel[one.day <= day]] = True
        return seen


def masks(data: LabelledParcels, test: int, n_folds: int = 5) -> tuple[Mask, Mask, Mask]:
    """Training, validation and test masks (P,) of the published rotation: test fold k, validation k - 1, training the rest.

    Source: Garnot, Landrieu and Chehata 2022: 123/4/5, 234/5/1, 345/1/2, 451/2/3, 512/3/4.
    """
    validation = (test - 2) % n_folds + 1
    is_test, is_validation = data.fold == test, data.fold == validation
    labelled = data.is_labelled
    return labelled & ~is_test & ~is_validation, labelled & is_validation, labelled & is_test
