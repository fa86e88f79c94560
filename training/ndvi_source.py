"""Training of an NDVI model on a file's source: recorded parcels, a simulated season, or the pixels of raster patches.

    n_updates = 3000          fields of NdviTrainingConfig (of GapTrainingConfig for gap-filling), as for a stored season
    [network]                 fields of the network's configuration
    [source]                  with it nothing is read from or written to the database
    kind = "patches"          nl | simulator | patches
    folder = "be-flanders-patches"
    pixels = 2000             patches: pixels drawn; 0: all
    parcels = 360             simulator: fields

Errors: RunConfigError for a [source] that cannot be; TrainingDataError for data from which nothing can be learnt.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import Checkpoint
from models.ndvi.published.reconstruction import NdviTrainingConfig
from models.ndvi.published.training import train_ndvi
from models.ndvi.training import GapTrainingConfig, fit_gaps
from training import sources
from training.errors import RunConfigError
from training.season_models import VALIDATION_SHARE, conventions, ndvi_checkpoint
from training.sources import NdviData, NdviSource, UnknownSource
from training.stored_season import hold_out

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Trained:
    """A model of a source, at rest, and its scores on the blocks that were held out."""

    checkpoint: Checkpoint
    scores: Mapping[str, float]
    """Of a network of the paper r2, rmse, n, empty where no held-out view is near SAR; of the gap filler its own."""


def read_source(file: Path) -> tuple[NdviSource | None, dict[str, Any]]:
    """Return the source that a file names, None where it names none, and its choices for the training.

    Raises:
        RunConfigError: no such file, no TOML, a source with a key or kind that is not known.
    """
    try:
        plain = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunConfigError(f"{file}: {error}") from error
    given = plain.pop("source", None)
    if given is None:
        return None, plain
    try:
        made = sources.class_of(given.get("kind") if isinstance(given, dict) else None, sources.NDVI)
    except UnknownSource as error:
        raise RunConfigError(f"{file}, [source] {error}") from error
    known = [one.name for one in fields(made)]
    if unknown := sorted(set(given) - set(known)):
        raise RunConfigError(f"{file}, [source]: no {', '.join(unknown)}; known are {', '.join(known)}")
    if "folder" in given:
        given["folder"] = Path(given["folder"])
    if "pixels" in given:
        given["pixels"] = given["pixels"] or None
    return made(**given), plain


def train(
    data: NdviData,
    config: NdviTrainingConfig | GapTrainingConfig,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Trained:
    """Return a network of the paper, or the gap filler, on a source's series; whole blocks are held out for its scores.

    Args:
        progress: called with (update, loss).

    Raises:
        TrainingDataError: no series has both SAR and a clear view.
    """
    series, used = data.series, data.series.is_trained
    sar, clear = series.sar.rows(used[series.sar.parcel]), series.clear.rows(used[series.clear.parcel])
    days = np.concatenate([sar.day, clear.day])
    about: dict[str, object] = {
        "season": series.name,
        "collections": [series.name],
        "unit": data.unit,
        **conventions(data.starts_on),
        "observed_from": _on(data, days.min()),
        "observed_to": _on(data, days.max()),
        "n_training": int(used.sum()),
    }
    if isinstance(config, GapTrainingConfig):
        gaps, measured = fit_gaps(sar, clear, series.block, config, progress, device)
        return Trained(ndvi_checkpoint(gaps, measured.flat(), about), measured.flat())
    held = np.zeros(series.n_parcels, bool)
    group, block = (np.unique(one[used], return_inverse=True)[1].ravel() for one in (series.group, series.block))
    held[used] = hold_out(block, group, VALIDATION_SHARE, config.seed)
    network, found = train_ndvi(sar, clear, series.n_parcels, held, config, progress, device)
    scores = {} if found is None else {"r2": found.r2, "rmse": found.rmse, "n": float(found.n)}
    about |= {"n_training": int((used & ~held).sum()), "n_validation": int(held.sum())}
    return Trained(ndvi_checkpoint(network, scores, about), scores)


def _on(data: NdviData, day: float) -> str:
    return (data.starts_on + timedelta(days=int(day))).isoformat()
