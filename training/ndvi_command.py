"""`parcelwatch models train ndvi`: a stored season into a registered model, or a file's source (parcels or pixels) into a folder.

    n_updates = 3000          fields of NdviTrainingConfig (of GapTrainingConfig for gap-filling), as for a stored season
    [network]                 fields of the network's configuration
    [source]                  with it nothing is read from or written to the database
    kind = "patches"          nl | simulator | patches
    folder = "be-flanders-patches"
    pixels = 2000             patches: pixels drawn; 0: all
    parcels = 360             simulator: fields

Errors: RunConfigError for a [source] that cannot be; TrainingDataError for choices that a network does not have.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from models.checkpoint import Checkpoint
from models.ndvi.inputs import TrainingDataError
from models.ndvi.published.reconstruction import NdviTrainingConfig
from models.ndvi.published.training import train_ndvi
from models.ndvi.training import GapTrainingConfig, fit_gaps
from terminal.output import console, plain
from terminal.stages import Stages
from training import sources, stored_training
from training.config import RunConfigError
from training.season_models import GAP_FILLING, VALIDATION_SHARE, conventions, ndvi_checkpoint, ndvi_choices, write
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


def ndvi(
    season: Annotated[str | None, typer.Option(help="without a source: name of a stored season")] = None,
    collection: Annotated[str | None, typer.Option(help="without a source: collection of parcels")] = None,
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    model: Annotated[
        str, typer.Option(help="gap-filling (reconstructs curves), or of radar alone: mcnn-seq, rnn, cnn")
    ] = GAP_FILLING,
    config: Annotated[
        Path | None, typer.Option(help="TOML: n_updates, learning_rate ..., tables network and source")
    ] = None,
    min_area_ha: Annotated[float, typer.Option(help="without a source: leave smaller parcels out")] = 0.3,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Train the model of the gap-free NDVI curve, or a network of the paper to compare; spatial blocks are held out.

    Of a stored season: the model is registered. With a table source in the file: of recorded parcels, a simulated season or the
    pixels of raster patches, into a folder.
    """
    source, choices = (None, {}) if config is None else read_source(config)
    if source is None:
        if season is None or collection is None:
            raise RunConfigError("name a stored season with --season and --collection, or a --config with a [source]")
        asked = stored_training.Asked(season, collection, out, min_area_ha, seed, device)
        stored_training.train_ndvi(asked, model, config)
        return
    if season is not None or collection is not None:
        raise RunConfigError(f"give --season and --collection, or the [source] of {config}, not both")
    try:
        how = ndvi_choices(model, {"seed": seed} | choices)
    except (TypeError, ValueError) as error:
        raise TrainingDataError(f"{config}: {error}") from error
    with Stages(console).stage("training") as bar:
        bar.to(0.0, 1.0, "opening the source")
        data = source.open()
        found = train(data, how, lambda n, loss: bar.to(n, how.all_updates, f"loss {loss:.4f}"), device)
    write(found.checkpoint, out)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found.scores.items()) or "no held-out view"
    console.print(f"{data.series.n_parcels} {data.unit} of {plain(data.series.name)}: {scores}")
    console.print(f"model {found.checkpoint.model[:12]} written to {plain(out)}")
