"""Networks that `delineate` takes: a folder's checkpoint, checked, with all that its images need."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np

from db.seasons import last_anniversary
from db.sensors import S2_BANDS
from ingest.delineation.files import Crops
from ingest.delineation.season import NotDelineated
from models.checkpoint import Checkpoint
from models.segmentation.at_rest import from_checkpoint
from models.segmentation.inference import folded
from models.segmentation.network import PanopticNetwork, SegmentationNetwork, single
from models.segmentation.segmenters import Standardised
from models.segmentation.targets import VOID

BACKGROUND: Final = 0
MODALITY: Final = "s2"
STATISTICS_SCALE: Final = 1e-4
"""Reflectance of 1 in a file of statistics: such files are of digital numbers, as PASTIS has them."""


@dataclass(frozen=True)
class FieldNetwork:
    """A network of one series of Sentinel-2, as it is applied."""

    standardised: Standardised
    model: str
    """Id of the checkpoint."""
    crops: Crops
    """K names."""
    starts_on: date | None
    """Day 0 of the season it was trained on; None: not known."""

    def day_0(self, first: date) -> date:
        """Return day 0 of a season: the last anniversary of the network's that is not after the first scene, else the first scene."""
        return first if self.starts_on is None else last_anniversary(self.starts_on, first)


def read(folder: Path, statistics: Path | None = None) -> FieldNetwork:
    """Return the network in a folder; `statistics`: a file of `mean` and `std`, in place of those of the checkpoint.

    Args:
        folder: of a checkpoint (weights.pt, model.json), or of a training with one fold.

    Raises:
        NotDelineated: no network, several, without statistics, or of other images than those of Sentinel-2.
        CheckpointError: a broken checkpoint.
    """
    folder = _place(folder)
    try:
        weights, description = (folder / "weights.pt").read_bytes(), (folder / "model.json").read_text("utf-8")
        stated = None if statistics is None else json.loads(statistics.read_text("utf-8"))
    except OSError as error:
        raise NotDelineated(
            f"{error.filename}: {error.strerror}; --model is a folder of weights.pt and model.json, or of a training"
        ) from error
    except ValueError as error:
        raise NotDelineated(f"{statistics or folder}: not JSON in UTF-8") from error
    checkpoint = Checkpoint(weights, description)
    network, about = from_checkpoint(checkpoint)
    known = about.get("statistics") or {}
    if isinstance(network, SegmentationNetwork | PanopticNetwork):
        names = network.config.names
        if names != (MODALITY,):
            raise NotDelineated(
                f'{folder}: a network of {", ".join(names)}; Sentinel-2 alone is read here: train with modalities = ["{MODALITY}"]'
            )
        network = single(network)
    if stated is None:
        mean, sd = _arrays(known.get(MODALITY), "sd", f"{folder}: the checkpoint has no statistics; give --statistics")
    else:
        mean, sd = (one * STATISTICS_SCALE for one in _arrays(stated, "std", str(statistics)))
    made = Standardised(folded(network), mean.astype(np.float32), sd.astype(np.float32))
    if not made.channels == len(mean) == len(sd) == len(S2_BANDS) or not (np.isfinite(mean).all() and (sd > 0).all()):
        raise NotDelineated(
            f"{folder}: a network of {made.channels} channels with {len(mean)} means and {len(sd)} deviations; "
            f"it takes {len(S2_BANDS)} of Sentinel-2, deviations above 0"
        )
    names = tuple(about.get("classes") or ())
    names = names if len(names) == made.classes else tuple(f"class {one}" for one in range(made.classes))
    starts_on = about.get("starts_on")
    return FieldNetwork(
        made,
        checkpoint.model,
        Crops(names, frozenset({BACKGROUND, about.get("void", VOID)})),
        None if starts_on is None else date.fromisoformat(starts_on),
    )


def _place(folder: Path) -> Path:
    """Return the folder of the checkpoint: that of the one fold, where a training is given."""
    if (folder / "model.json").exists():
        return folder
    folds = sorted(path.parent for path in folder.glob("fold-*/model.json"))
    if len(folds) > 1:
        raise NotDelineated(f"{folder}: a network of each fold; give one of {', '.join(map(str, folds))}")
    return folds[0] if folds else folder


def _arrays(plain: Mapping[str, Any] | None, deviation: str, where: str) -> list[Any]:
    try:
        return [np.array((plain or {})[name], np.float64).reshape(-1) for name in ("mean", deviation)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wanted = f"`mean` and `{deviation}`, a number for each of {len(S2_BANDS)} bands"
        raise NotDelineated(f"{where}: {wanted}") from error
