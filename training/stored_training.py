"""Training on a stored season, with progress for a person; the model is registered."""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from db import registry
from db.connect import Connection, engine
from db.parcels import Parcel, Season, season_by_name
from devstack.addresses import resolve_dsn
from models.checkpoint import Checkpoint
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import TrainingDataError
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from models.ndvi.training import GAPS_DAYS, GapTrainingConfig
from models.ndvi.views import MODES
from terminal.output import console, plain, progress, table
from training import season_models, stored_season


def train_classifier(
    season: str,
    collection: str,
    out: Path,
    min_area_ha: float,
    min_parcels: int,
    epochs: int | None,
    seed: int,
    device: str,
) -> None:
    """Train the crop classifier with the declared crops as labels; spatial blocks are held out for its scores."""
    now = datetime.now(UTC)

    def label_of(parcel: Parcel) -> str | None:
        return parcel.crop_name if (parcel.area_ha or 0) >= min_area_ha else None

    with engine(resolve_dsn()).begin() as connection:
        data = stored_season.load(
            connection, season_by_name(connection, season), collection, now, label_of=label_of, min_parcels=min_parcels
        )
        console.print(f"{len(data.labels)} parcels of {len(data.classes)} crops, {', '.join(data.observations)}")
        if data.left_out:
            console.print(f"left out: {plain(_left_out(data.left_out, min_parcels))}")
        with progress("training") as steps:
            model = season_models.classifier(
                data,
                epochs=epochs,
                seed=seed,
                device=device,
                progress=lambda epoch, of, loss: steps.to(epoch, of, f"epochs, loss {loss:.3f}"),
            )
        checkpoint = model.to_checkpoint()
        _registered(connection, "classifier", checkpoint, model.scores, out)
    _print_scores(model.scores, data.season)


def train_ndvi(
    season: str,
    collection: str,
    out: Path,
    model_name: str,
    config_file: Path | None,
    min_area_ha: float,
    seed: int,
    device: str,
) -> None:
    """Train the model of the gap-free NDVI curve, or a network of the paper to compare; spatial blocks are held out."""
    config = _ndvi_choices(model_name, config_file, seed)
    with engine(resolve_dsn()).begin() as connection:
        data = stored_season.load(
            connection,
            season_by_name(connection, season),
            collection,
            datetime.now(UTC),
            pixels=0,
            label_of=lambda parcel: "field" if (parcel.area_ha or 0) >= min_area_ha else None,
            min_classes=1,
        )
        console.print(f"{len(data.labels)} parcels, {len(data.s1)} radar and {len(data.s2)} optical observations")
        model: GapModel | SarToNdvi
        with progress("training") as steps:

            def told(update: int, loss: float) -> None:
                steps.to(update, config.all_updates, f"updates, loss {loss:.4f}")

            if isinstance(config, GapTrainingConfig):
                model, scores = season_models.ndvi(data, config=config, device=device, progress=told)
            else:
                model, scores = season_models.radar_alone(data, config=config, seed=seed, device=device, progress=told)
        checkpoint = season_models.ndvi_checkpoint(model, scores, season_models.about(data))
        _registered(connection, "ndvi", checkpoint, scores, out)
    _print_gap_scores(scores)


def _ndvi_choices(model: str, file: Path | None, seed: int) -> GapTrainingConfig | NdviTrainingConfig:
    """How a model is trained: the defaults of its name with a file's choices."""
    try:
        choices = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
        return season_models.ndvi_choices(model, {"seed": seed} | choices)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingDataError(f"{file or '--model'}: {error}") from error


def _registered(
    connection: Connection, task: registry.Task, checkpoint: Checkpoint, scores: Mapping[str, Any], out: Path
) -> None:
    folder = out / checkpoint.model[:12]
    key = season_models.save(connection, task, checkpoint, folder, datetime.now(UTC))
    console.print(f"model {key} ({checkpoint.model[:12]}) on held-out blocks: {scores_in_short(scores)}; in {folder}")


def _left_out(parcels_of: Mapping[str, int], min_parcels: int) -> str:
    """Return which crops a training leaves out, with their parcels, and how to take them in."""
    names = ", ".join(f"{name} {n}" for name, n in sorted(parcels_of.items(), key=lambda one: (-one[1], one[0])))
    return (
        f"{sum(parcels_of.values())} parcels of {len(parcels_of)} crops with fewer than {min_parcels} parcels ({names}); "
        f"--min-parcels {max(parcels_of.values())} takes in the largest"
    )


def _print_scores(scores: Mapping[str, Any], season: Season) -> None:
    """Print a classifier's scores by the day up to whose end observations counted."""
    if "days" not in scores:
        return
    rows = [
        (season.starts_on + timedelta(days=day - 1), f"{f1:.2f}", f"{accuracy:.2f}", scores["parcels"])
        for day, f1, accuracy in zip(scores["days"], scores["macro_f1"], scores["accuracy"], strict=True)
    ]
    console.print(table(("as known on", "macro-F1", "accuracy", "held-out parcels"), rows))


def _print_gap_scores(scores: Mapping[str, float]) -> None:
    """Print a gap filler's errors by the days around a view that were hidden, and on how many views."""
    if "n_views" not in scores:
        return
    rows = [
        (
            f"{gap} days",
            *(f"{scores[f'rmse_{mode}_{gap}']:.3f}" for mode in MODES),
            f"{scores['n_views']:,}",
            scores["n_fields"],
        )
        for gap in GAPS_DAYS
    ]
    names = {"causal": "RMSE as known on the day", "retrospective": "RMSE afterwards"}
    console.print(
        table(("NDVI hidden in gaps of", *(names[mode] for mode in MODES), "views", "held-out parcels"), rows)
    )


def scores_in_short(scores: Mapping[str, Any]) -> str:
    """Return validation scores in a few words."""
    if "macro_f1" in scores:
        counted = f", {scores['parcels']} parcels" if "parcels" in scores else ""
        return f"macro-F1 {scores['macro_f1'][-1]:.2f} as known on the last scored day{counted}"
    if "rmse_retrospective_30" in scores:
        counted = f", {scores['n_views']:,} views" if "n_views" in scores else ""
        return f"NDVI RMSE {scores['rmse_retrospective_30']:.3f} in gaps of 30 days{counted}"
    return ", ".join(f"{name} {scores[name]:.3f}" for name in ("r2", "rmse") if name in scores) or "none"
