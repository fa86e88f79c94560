"""Training on a stored season, with progress for a person; the model is registered."""

import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from db import registry, work
from db.connect import Connection, engine
from db.parcels import Parcel
from db.seasons import Season, season_by_name
from devstack.addresses import resolve_dsn
from models.checkpoint import Checkpoint
from models.classifier.fitting import Epoch
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import TrainingDataError
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from models.ndvi.training import GAPS_DAYS, GapTrainingConfig
from models.ndvi.views import MODES
from terminal.output import console, plain, progress, table
from training import season_models, stored_season
from training.activation import is_allowed
from training.cross_fitting import CrossFit, cross_fitted
from training.stored_season import TrainingData


@dataclass(frozen=True)
class Asked:
    """What both trainings are asked for."""

    season: str
    """Name of a stored season."""
    collection: str
    out: Path
    """Folder in which a folder of the checkpoint is made."""
    min_area_ha: float
    """Smaller parcels are left out."""
    seed: int
    device: str
    """cpu or cuda."""

    def load(
        self,
        connection: Connection,
        label_of: Callable[[Parcel], str | None],
        as_known_at: datetime | None = None,
        **choices: int,
    ) -> TrainingData:
        """Return the parcels of at least the asked area, as known then (None: now); `choices` are those of `stored_season.load`."""

        def label(parcel: Parcel) -> str | None:
            return label_of(parcel) if (parcel.area_ha or 0) >= self.min_area_ha else None

        season = season_by_name(connection, self.season)
        then = as_known_at or datetime.now(UTC)
        return stored_season.load(connection, season, self.collection, then, label_of=label, **choices)


def train_classifier(asked: Asked, min_parcels: int, epochs: int | None) -> None:
    """Train the crop classifier with the declared crops as labels; spatial blocks are held out for its scores."""
    with engine(resolve_dsn()).begin() as connection:
        data = asked.load(connection, lambda parcel: parcel.crop_name, min_parcels=min_parcels)
        console.print(f"{len(data.labels)} parcels of {len(data.classes)} crops, {', '.join(data.observations)}")
        if data.left_out:
            console.print(f"left out: {plain(_left_out(data.left_out, min_parcels))}")
        with progress("training") as steps:
            model = season_models.classifier(
                data,
                epochs=epochs,
                seed=asked.seed,
                device=asked.device,
                progress=lambda epoch, of, loss: steps.to(epoch, of, f"epochs, loss {loss:.3f}"),
            )
        checkpoint = model.to_checkpoint()
        _registered(connection, "classifier", checkpoint, model.scores, asked.out)
    _print_scores(model.scores, data.season)


def train_cross_fitted(asked: Asked, min_parcels: int, how: CrossFit, activate_if: str | None) -> None:
    """Train a classifier of the running season's own declarations, of which no parcel is answered by what it taught.

    Args:
        activate_if: scores that let it watch the season at once, such as "accuracy>=0.8"; None: activated by hand.
    """
    root = asked.out / f"cross-fitting-{asked.collection}-{asked.season}"
    of_season = {"season": asked.season, "collection": asked.collection, "min_area_ha": asked.min_area_ha}
    with engine(resolve_dsn()).begin() as connection:
        then = how.as_known_at(root, datetime.now(UTC), min_parcels=min_parcels, **of_season)
        data = asked.load(connection, lambda parcel: parcel.crop_name, then, min_parcels=min_parcels)
        console.print(f"{len(data.labels)} parcels of {len(data.classes)} crops, as known at {then:%Y-%m-%d %H:%M} UTC")
        with progress("training") as steps:

            def report(fold: str, epoch: Epoch) -> None:
                done = (int(fold.removeprefix("fold-")) - 1) * epoch.rounds + epoch.round - 1
                total = how.folds * epoch.rounds * epoch.of
                steps.to(done * epoch.of + epoch.number, total, f"epochs, {fold}, loss {epoch.loss:.3f}")

            model = cross_fitted(data, how, root, report)
        key = _registered(connection, "classifier", model.to_checkpoint(), model.scores, asked.out)
        shutil.rmtree(root)
        _print_scores(model.scores, data.season)
        if is_allowed(activate_if, model.scores):
            now = datetime.now(UTC)
            registry.activate(connection, data.season.season_key, asked.collection, key, now)
            n = work.mark_season(connection, data.season.season_key, asked.collection, "classifier", now)
            console.print(
                plain(f"{activate_if} holds: it watches {asked.collection} in {asked.season}; {n} parcels rebuilt")
            )
        else:
            console.print("`parcelwatch models activate` lets it watch")


def train_ndvi(asked: Asked, model_name: str, config_file: Path | None) -> None:
    """Train the model of the gap-free NDVI curve, or a network of the paper to compare; spatial blocks are held out."""
    config = _ndvi_choices(model_name, config_file, asked.seed)
    with engine(resolve_dsn()).begin() as connection:
        data = asked.load(connection, lambda _: "field", pixels=0, min_classes=1)
        console.print(f"{len(data.labels)} parcels, {len(data.s1)} radar and {len(data.s2)} optical observations")
        model: GapModel | SarToNdvi
        with progress("training") as steps:

            def report(update: int, loss: float) -> None:
                steps.to(update, config.all_updates, f"updates, loss {loss:.4f}")

            if isinstance(config, GapTrainingConfig):
                model, scores = season_models.ndvi(data, config=config, device=asked.device, progress=report)
            else:
                model, scores = season_models.radar_alone(
                    data, config=config, seed=asked.seed, device=asked.device, progress=report
                )
        checkpoint = season_models.ndvi_checkpoint(model, scores, season_models.about(data))
        _registered(connection, "ndvi", checkpoint, scores, asked.out)
    _print_gap_scores(scores)


def _ndvi_choices(model: str, file: Path | None, seed: int) -> GapTrainingConfig | NdviTrainingConfig:
    """Return how a model is trained: the defaults of its name with a file's choices."""
    try:
        choices = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
        return season_models.ndvi_choices(model, {"seed": seed} | choices)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingDataError(f"{file or '--model'}: {error}") from error


def _registered(
    connection: Connection, task: registry.Task, checkpoint: Checkpoint, scores: Mapping[str, Any], out: Path
) -> int:
    folder = out / checkpoint.model[:12]
    key = season_models.save(connection, task, checkpoint, folder, datetime.now(UTC))
    console.print(f"model {key} ({checkpoint.model[:12]}) on held-out blocks: {scores_in_short(scores)}; in {folder}")
    return key


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
    """Return validation scores in short."""
    if "macro_f1" in scores:
        counted = f", {scores['parcels']} parcels" if "parcels" in scores else ""
        return f"macro-F1 {scores['macro_f1'][-1]:.2f} as known on the last scored day{counted}"
    if "rmse_retrospective_30" in scores:
        counted = f", {scores['n_views']:,} views" if "n_views" in scores else ""
        return f"NDVI RMSE {scores['rmse_retrospective_30']:.3f} in gaps of 30 days{counted}"
    return ", ".join(f"{name} {scores[name]:.3f}" for name in ("r2", "rmse") if name in scores) or "none"
