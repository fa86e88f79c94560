"""`parcelwatch monitor`, `models`, `history`, `alerts` and `status`."""

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from db import history as store
from db import registry, work
from db.connect import engine
from db.parcels import Parcel, season_by_name
from db.settings import resolve_dsn
from models.checkpoint import Checkpoint
from models.classifier import ClassifierConfig
from models.gap_model import GapModel
from models.gap_training import GapTrainingConfig
from models.ndvi_inputs import TrainingDataError
from models.ndvi_reconstruction import NdviTrainingConfig, SarToNdvi
from monitor import picture, schedule, train, training_data, words
from monitor.errors import CannotWatch, NotFound
from monitor.settings import MonitorSettings
from monitor.worker import Worker

console = Console()
monitor = typer.Typer(no_args_is_help=True, help="Fold what is new into beliefs and alerts.")
models = typer.Typer(no_args_is_help=True, help="Train, list and activate models.")
train_app = typer.Typer(no_args_is_help=True, help="Train a model on a stored season.")
models.add_typer(train_app, name="train")

SeasonOption = Annotated[str, typer.Option(help="name of a stored season")]
CollectionOption = Annotated[str, typer.Option(help="collection of parcels")]
TimeOption = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"], help="UTC unless it says otherwise")
]


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
    """List registered models, newest first."""
    table = Table("key", "id", "task", "gives", "trained on", "validation", "registered")
    with engine(resolve_dsn()).connect() as connection:
        for row in registry.all_models(connection):
            gives = f"{len(row.config['classes'])} crops" if "classes" in row.config else f"NDVI, {_kind(row)}"
            data = "{season}, {observed_from} to {observed_to}".format_map(row.trained_on)
            since = f"{row.recorded_at:%Y-%m-%d %H:%M}"
            table.add_row(str(row.model_key), row.model_id[:12], row.task, gives, data, _scores(row.metrics), since)
    console.print(table)


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
        found = [
            m for m in registry.all_models(connection) if str(m.model_key) == model or m.model_id.startswith(model)
        ]
        if len(found) != 1:
            raise NotFound(f"{len(found) or 'no'} registered model answers to {model!r}; see `parcelwatch models list`")
        if found[0].task == "classifier" and (why := ClassifierConfig.from_json(found[0].config).coupling):
            raise CannotWatch(
                f"model {found[0].model_id[:12]} cannot watch a season: {why}; it classifies whole ones only"
            )
        if found[0].task == "ndvi":
            train.curve_model(Checkpoint(*registry.checkpoint(connection, found[0].model_key)))
        stored = season_by_name(connection, season)
        registry.activate(connection, stored.season_key, collection, found[0].model_key, now)
        n = work.mark_season(connection, stored.season_key, collection, found[0].task, now)
    console.print(f"model {found[0].model_id[:12]} watches {collection} in {season}; {n} parcels will be rebuilt")


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
        data = training_data.load(
            connection, season_by_name(connection, season), collection, now, label_of=label_of, min_parcels=min_parcels
        )
        console.print(f"{len(data.labels)} parcels of {len(data.classes)} crops, {', '.join(data.observations)}")
        with _bar("training") as (bar, task):
            model = train.classifier(
                data, epochs=epochs, seed=seed, device=device,
                progress=lambda epoch, of, loss: bar.update(task, completed=epoch, total=of, description=f"loss {loss:.3f}"),
            )  # fmt: skip
        checkpoint = model.to_checkpoint()
        _registered(connection, "classifier", checkpoint, model.scores, out)


def train_ndvi(
    season: SeasonOption,
    collection: CollectionOption,
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    model_name: Annotated[
        str, typer.Option("--model", help="gap-filling (draws curves), or of radar alone: mcnn-seq, rnn, cnn")
    ] = train.GAP_FILLING,
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
        data = training_data.load(
            connection, season_by_name(connection, season), collection, datetime.now(UTC), pixels=0,
            label_of=lambda parcel: "field" if (parcel.area_ha or 0) >= min_area_ha else None, min_classes=1,
        )  # fmt: skip
        console.print(f"{len(data.labels)} parcels, {len(data.s1)} radar and {len(data.s2)} optical observations")
        model: GapModel | SarToNdvi
        with _bar("training") as (bar, task):

            def told(update: int, loss: float) -> None:
                bar.update(task, completed=update, total=config.all_updates, description=f"loss {loss:.4f}")

            if isinstance(config, GapTrainingConfig):
                model, scores = train.ndvi(data, config=config, device=device, progress=told)
            else:
                model, scores = train.radar_alone(data, config=config, seed=seed, device=device, progress=told)
        checkpoint = train.ndvi_checkpoint(model, scores, train.about(data))
        _registered(connection, "ndvi", checkpoint, scores, out)


def _ndvi_choices(model: str, file: Path | None, seed: int) -> GapTrainingConfig | NdviTrainingConfig:
    """How a model is trained: the defaults of its name with a file's choices."""
    try:
        choices = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
        return train.ndvi_choices(model, {"seed": seed} | choices)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingDataError(f"{file or '--model'}: {error}") from error


def history(
    parcel: Annotated[str, typer.Argument(help="the agency's own id of the parcel")],
    collection: Annotated[str | None, typer.Option(help="collection, if the id is not unique")] = None,
    season: Annotated[str | None, typer.Option(help="season, else the newest one")] = None,
    as_known_at: TimeOption = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write, else reports/PARCEL.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="rows as JSON lines instead of the table")] = False,
) -> None:
    """Show all that is known of a parcel, or was known at a time: table and picture."""
    at = None if as_known_at is None else as_known_at if as_known_at.tzinfo else as_known_at.replace(tzinfo=UTC)
    with engine(resolve_dsn()).connect() as connection:
        found = store.find_parcel(connection, parcel, collection, season)
        if not found:
            raise NotFound(f"no parcel {parcel!r} is stored" + (f" in season {season}" if season else ""))
        same_season = [one for one in found if one[2] == found[0][2]]
        if len(same_season) > 1:
            raise NotFound(
                f"{parcel!r} is in collections {', '.join(c for _, c, _ in same_season)}: name one with --collection"
            )
        key, its_collection, its_season = found[0]
        rows = store.parcel_history(connection, key, None, None, at)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        return
    _print_history(rows)
    path = out or Path("reports") / f"{parcel}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = f", as known at {at:%Y-%m-%d %H:%M} UTC" if at else ""
    picture.save(rows, f"{its_collection} {parcel}, season {its_season}{known}", path)
    console.print(f"picture: {path}")


def alerts(
    season: Annotated[str | None, typer.Option(help="only this season")] = None,
    collection: Annotated[str | None, typer.Option(help="only this collection")] = None,
    rule: Annotated[str | None, typer.Option(help="crop_mismatch, no_emergence or early_loss")] = None,
    limit: Annotated[int, typer.Option(help="at most so many")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON lines, with all the evidence")] = False,
) -> None:
    """List open alerts, confirmed and surest first."""
    with engine(resolve_dsn()).connect() as connection:
        rows = store.open_alerts(connection, season, collection, rule, limit)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        return
    table = Table(
        "alert", "parcel", "declared", "rule", "colour", "state", "confidence", "departed", "confirmed", "why"
    )
    for row in rows:
        parcel = f"{row.source_id}\n{row.declared_crop or 'nothing declared'}\n{row.collection}, {row.season}"
        what = f"[{row.colour}]{row.rule}[/]\n{row.state}, confidence {row.confidence:.2f}"
        confirmed = f"{row.confirmed_at:%Y-%m-%d}" if row.confirmed_at else "not yet"
        table.add_row(
            str(row.alert_key), parcel, what, str(row.departed_on), confirmed, words.why(row.rule, row.evidence)
        )
    console.print(table if rows else "no open alerts")


def status() -> None:
    """Show the state of the whole chain."""
    table = Table("part", "what", "value")
    with engine(resolve_dsn()).connect() as connection:
        for row in store.status(connection):
            table.add_row(*row)
    console.print(table)


def _print_history(rows: list[store.HistoryRow]) -> None:
    """Observations, changes of the most likely crop and alerts; the daily curve is for the picture."""
    table = Table(box=None)
    for name in ("day", "what", "known since", "NDVI", "VV dB", "VH dB"):
        table.add_column(name, no_wrap=True, justify="right" if name[0] in "NV" else "left")
    table.add_column("note")
    crop = None
    for row in rows:
        if row.kind == "ndvi" or (row.kind == "posterior" and row.crop == crop):
            continue
        crop = row.crop if row.kind == "posterior" else crop
        numbers = (
            "" if value is None else f"{value:.{digits}f}"
            for value, digits in ((row.ndvi, 2), (row.vv_db, 1), (row.vh_db, 1))
        )  # fmt: skip
        table.add_row(f"{row.at:%Y-%m-%d}", row.kind, f"{row.recorded_at:%Y-%m-%d}", *numbers, _note(row))
    last = max((row.at for row in rows if row.kind == "ndvi"), default=None)
    console.print(table)
    n_days = sum(row.kind == "ndvi" for row in rows)
    console.print(f"daily NDVI on {n_days} days" + (f", the last {last:%Y-%m-%d}" if last else ""))


def _note(row: store.HistoryRow) -> str:
    """What else there is to say of a row."""
    if row.kind == "alert":
        return f"[{row.detail['colour']}]{row.detail['rule']} {row.detail['event']}[/]: {words.why(row.detail['rule'], row.detail)}"
    if row.kind == "posterior":
        return f"{row.crop} {row.probability:.2f}"
    if row.kind == "declaration":
        return f"{row.crop} ({row.detail['crop_code']})"
    revision = f", revision {row.detail['revision']}" if row.detail.get("revision") else ""
    return f"orbit {row.relative_orbit}{revision}"


def _registered(
    connection: sa.Connection, task: registry.Task, checkpoint: Checkpoint, scores: Mapping[str, Any], out: Path
) -> None:
    folder = out / checkpoint.model[:12]
    key = train.save(connection, task, checkpoint, folder, datetime.now(UTC))
    console.print(f"model {key} ({checkpoint.model[:12]}) on held-out blocks: {_scores(scores)}; in {folder}")


def _scores(scores: Mapping[str, Any]) -> str:
    """Validation scores in a few words."""
    if "macro_f1" in scores:
        return f"macro-F1 {', '.join(f'{one:.2f}' for one in scores['macro_f1'])} over the season"
    return ", ".join(f"{name} {scores[name]:.3f}" for name in ("r2", "rmse") if name in scores) or "none"


@contextmanager
def _bar(what: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield bar, bar.add_task(what, total=None)
