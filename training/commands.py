"""`parcelwatch models`: train, import, list and activate models.

Arguments are checked before networks are imported or a season is read.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from db import registry, work
from db.connect import engine
from db.seasons import season_by_name
from devstack.addresses import resolve_dsn
from monitor.errors import CannotWatch
from monitor.inspection import arguments
from monitor.inspection.listing import records
from terminal.output import console, plain
from training.classifier_command import classifier
from training.ndvi_command import ndvi
from training.patches_command import patches
from training.published_commands import import_published, verify
from training.segmentation_command import panoptic, segmentation

app = typer.Typer(no_args_is_help=True, help="Train, list and activate models.")
train = typer.Typer(no_args_is_help=True, help="Train a model on a stored season, or on a file's source.")
app.add_typer(train, name="train")
train.command()(classifier)
train.command()(ndvi)
train.command()(segmentation)
train.command()(panoptic)
app.command()(patches)
app.command()(import_published)
app.command()(verify)


@app.command("list")
def list_models() -> None:
    """List registered models, newest first, and what each is active for."""
    from training.stored_training import scores_in_short

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
                scores_in_short(row.metrics),
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


@app.command()
def activate(
    model: Annotated[
        str,
        typer.Argument(help="key or first digits of the id, as `models list` shows them, or whittaker (simple curve)"),
    ],
    season: Annotated[str, typer.Option(help="name of a stored season")],
    collection: Annotated[str, typer.Option(help="collection of parcels")],
) -> None:
    """Let a model watch a collection in a season; its parcels are rebuilt from their observations."""
    from models.checkpoint import Checkpoint
    from models.classifier.network import ClassifierConfig
    from models.ndvi import whittaker
    from models.ndvi.curve_models import curve_model_of
    from monitor import simple_curve
    from training.library import registered

    now = datetime.now(UTC)
    with engine(resolve_dsn()).begin() as connection:
        is_simple = model == whittaker.KIND
        found = registered(connection, str(simple_curve.registered(connection, now)) if is_simple else model)
        arguments.groups(connection, season, collection)
        if found.task == "classifier" and (why := ClassifierConfig.from_json(found.config).coupling):
            raise CannotWatch(
                f"model {found.model_id[:12]} cannot watch a season: {why}; it classifies whole ones only"
            )
        if found.task == "ndvi":
            curve_model_of(Checkpoint(*registry.checkpoint(connection, found.model_key)))
        stored = season_by_name(connection, season)
        registry.activate(connection, stored.season_key, collection, found.model_key, now)
        n = work.mark_season(connection, stored.season_key, collection, found.task, now)
        (group,) = arguments.groups(connection, season, collection)
    console.print(plain(f"model {found.model_id[:12]} watches {collection} in {season}; {n} parcels will be rebuilt"))
    if not group.has_classifier:
        console.print("no classifier is active for it yet, so crop_mismatch is not checked: activate one, too")
    if not group.has_ndvi_model:
        console.print(
            "no NDVI model is active for it yet: daily curve and phenology are of the simple smoother, whittaker"
        )
