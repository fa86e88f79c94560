"""`parcelwatch monitor`, `models` and `status`."""

import logging
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from db import registry, work
from db import status as store
from db.connect import engine
from db.parcels import Parcel, Season, season_by_name
from devstack.addresses import resolve_dsn
from models.checkpoint import Checkpoint
from models.classifier.network import ClassifierConfig
from models.ndvi.gap_model import GapModel
from models.ndvi.inputs import TrainingDataError
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from models.ndvi.training import GAPS_DAYS, GapTrainingConfig
from models.ndvi.views import MODES
from monitor import schedule
from monitor.errors import CannotWatch, NotFound
from monitor.inspection import arguments
from monitor.inspection.listing import records
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from terminal.output import console, plain, progress, table
from training import season_models, stored_season

monitor = typer.Typer(no_args_is_help=True, help="Fold what is new into beliefs and alerts.")
models = typer.Typer(no_args_is_help=True, help="Train, list and activate models.")
train_app = typer.Typer(no_args_is_help=True, help="Train a model on a stored season.")
models.add_typer(train_app, name="train")

SeasonOption = Annotated[str, typer.Option(help="name of a stored season")]
CollectionOption = Annotated[str, typer.Option(help="collection of parcels")]


@monitor.command()
def run() -> None:
    """Look for news until told to stop (SIGTERM or Ctrl-C)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    schedule.run(resolve_dsn(), MonitorSettings(), lambda: datetime.now(UTC))


@monitor.command()
def once() -> None:
    """Work off all the news there is, then stop."""
    counts = schedule.once(Worker(resolve_dsn(), MonitorSettings()), datetime.now(UTC))
    console.print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.__dict__.items()))


@models.command("list")
def list_models() -> None:
    """List registered models, newest first, and what each is active for."""
    rows = list[tuple[str, ...]]()
    with engine(resolve_dsn()).connect() as connection:
        active = registry.active_models(connection)
        for row in registry.all_models(connection):
            gives = f"{len(row.config['classes'])} crops" if "classes" in row.config else f"NDVI, {_kind(row)}"
            data = "{season}, {observed_from} to {observed_to}".format_map(_Unsaid(row.trained_on))
            where = ", ".join(f"{one} in {season}" for one, season, key in active if key == row.model_key)
            cells = (
                row.model_key,
                row.model_id[:12],
                row.task,
                gives,
                data,
                f"{row.recorded_at:%Y-%m-%d %H:%M}",
                where or "nothing",
                _scores(row.metrics),
            )
            rows.append(tuple(map(plain, cells)))
    if not rows:
        console.print("no model is registered: `parcelwatch models train classifier`")
        return
    names = ("key", "id", "task", "gives", "trained on", "registered (UTC)", "active for", "validation")
    console.print(records(dict(zip(names, zip(*rows, strict=True), strict=True))))


class _Unsaid(dict[str, Any]):
    """What a model says of its data; a dash for what it does not."""

    def __missing__(self, key: str) -> str:
        return "-"


def _kind(row: registry.ModelRow) -> str:
    return str(row.config.get("kind", "of an earlier version"))


@models.command()
def activate(
    model: Annotated[str, typer.Argument(help="key or first digits of the id, as `models list` shows them")],
    season: SeasonOption,
    collection: CollectionOption,
) -> None:
    """Let a model watch a collection in a season; its parcels are rebuilt from their observations."""
    now = datetime.now(UTC)
    with engine(resolve_dsn()).begin() as connection:
        found = _the_model(connection, model)
        arguments.groups(connection, season, collection)
        if found.task == "classifier" and (why := ClassifierConfig.from_json(found.config).coupling):
            raise CannotWatch(
                f"model {found.model_id[:12]} cannot watch a season: {why}; it classifies whole ones only"
            )
        if found.task == "ndvi":
            GapModel.from_checkpoint(Checkpoint(*registry.checkpoint(connection, found.model_key)))
        stored = season_by_name(connection, season)
        registry.activate(connection, stored.season_key, collection, found.model_key, now)
        n = work.mark_season(connection, stored.season_key, collection, found.task, now)
        (group,) = arguments.groups(connection, season, collection)
    console.print(plain(f"model {found.model_id[:12]} watches {collection} in {season}; {n} parcels will be rebuilt"))
    if not group.has_classifier:
        console.print("no classifier is active for it yet, so crop_mismatch is not checked: activate one, too")
    if not group.has_ndvi_model:
        console.print(
            "no NDVI model is active for it yet, so there is no daily curve and no phenology: activate one, too"
        )


def _the_model(connection: sa.Connection, name: str) -> registry.ModelRow:
    """Return the model of a key, else of the first digits of an id; raises NotFound."""
    stored = registry.all_models(connection)
    found = [m for m in stored if str(m.model_key) == name] or [
        m for m in stored if name and m.model_id.startswith(name)
    ]
    if len(found) != 1:
        raise NotFound(f"{len(found) or 'no'} registered model answers to {name!r}; see `parcelwatch models list`")
    return found[0]


def train_classifier(
    season: SeasonOption,
    collection: CollectionOption,
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    min_area_ha: Annotated[float, typer.Option(help="leave smaller parcels out")] = 0.0,
    min_parcels: Annotated[int, typer.Option(help="leave crops with fewer parcels out")] = 12,
    epochs: Annotated[int | None, typer.Option(help="passes over the season")] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
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
    season: SeasonOption,
    collection: CollectionOption,
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    model_name: Annotated[
        str, typer.Option("--model", help="gap-filling (draws curves), or of radar alone: mcnn-seq, rnn, cnn")
    ] = season_models.GAP_FILLING,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file of choices: n_updates, learning_rate, [network] ...")
    ] = None,
    min_area_ha: Annotated[float, typer.Option(help="leave smaller parcels out")] = 0.3,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
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


def status() -> None:
    """Show the state of the whole chain: which processes live, what is stored, what waits for what."""
    with engine(resolve_dsn()).connect() as connection:
        rows = store.status(connection)
    columns = {name: [plain(row[nr]) for row in rows] for nr, name in enumerate(("part", "what", "value"))}
    console.print(records(columns))


def _registered(
    connection: sa.Connection, task: registry.Task, checkpoint: Checkpoint, scores: Mapping[str, Any], out: Path
) -> None:
    folder = out / checkpoint.model[:12]
    key = season_models.save(connection, task, checkpoint, folder, datetime.now(UTC))
    console.print(f"model {key} ({checkpoint.model[:12]}) on held-out blocks: {_scores(scores)}; in {folder}")


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


def _scores(scores: Mapping[str, Any]) -> str:
    """Return validation scores in a few words."""
    if "macro_f1" in scores:
        counted = f", {scores['parcels']} parcels" if "parcels" in scores else ""
        return f"macro-F1 {scores['macro_f1'][-1]:.2f} as known on the last scored day{counted}"
    if "rmse_retrospective_30" in scores:
        counted = f", {scores['n_views']:,} views" if "n_views" in scores else ""
        return f"NDVI RMSE {scores['rmse_retrospective_30']:.3f} in gaps of 30 days{counted}"
    return ", ".join(f"{name} {scores[name]:.3f}" for name in ("r2", "rmse") if name in scores) or "none"
