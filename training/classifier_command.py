"""`parcelwatch models train classifier`: a stored season into a registered model, or a whole run from a TOML file.

$ torchrun --nproc-per-node 4 --no-python parcelwatch models train classifier --config FILE      several processes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.connect import engine
from devstack.addresses import resolve_dsn
from terminal.output import console
from training.activation import is_allowed
from training.devices import require_device, session, set_threads
from training.errors import RunConfigError

if TYPE_CHECKING:  # what a training needs takes seconds to import; a wrong option is refused before
    from rich.table import Table

    from models.classifier.crop_model import CropModel
    from models.classifier.fitting import Epoch, Session
    from training.config import RunConfig
    from training.cross_validation import OnEpoch
    from training.scores import RunScores
    from training.sources import Progress as Reading


def classifier(
    config: Annotated[Path | None, typer.Option(help="TOML file of a run: data, model, training, folder")] = None,
    season: Annotated[str | None, typer.Option(help="without a file: name of a stored season")] = None,
    collection: Annotated[str | None, typer.Option(help="without a file: collection of parcels")] = None,
    folder: Annotated[Path | None, typer.Option(help="with a file: folder of the run, instead of the file's")] = None,
    out: Annotated[Path, typer.Option(help="without a file: folder for the checkpoint")] = Path("reports/models"),
    min_area_ha: Annotated[float, typer.Option(min=0, help="without a file: leave smaller parcels out")] = 0.0,
    min_parcels: Annotated[int, typer.Option(min=1, help="without a file: leave crops with fewer parcels out")] = 12,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over the season")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    cross_fit: Annotated[
        int | None,
        typer.Option(min=2, max=20, help="of a running season: folds, each answered by a model of the others"),
    ] = None,
    wrong_labels: Annotated[
        float, typer.Option(min=0, max=0.5, help="with --cross-fit: share of wrong declarations to allow for")
    ] = 0.05,
    activate_if: Annotated[
        str | None, typer.Option(help="with --cross-fit: scores that let it watch at once, as accuracy>=0.8")
    ] = None,
) -> None:
    """Train the crop classifier with the declared crops as labels.

    Of a stored season: spatial blocks are held out for scores and calibration, the model is registered; with --cross-fit the
    season may still run, and be the first (docs/first-season.md). With --config: any source, cross-validated, in a folder that
    a run which was stopped goes on in; see docs/training.md.
    """
    if activate_if is not None and cross_fit is None:
        raise RunConfigError("--activate-if goes with --cross-fit; `models activate` lets any other model watch")
    is_allowed(activate_if, {})
    if device is not None:
        require_device(device)
    if config is None:
        if season is None or collection is None:
            raise RunConfigError("name a stored season with --season and --collection, or a file with --config")
        from training import stored_training
        from training.cross_fitting import CrossFit

        set_threads()
        stored = stored_training.Asked(season, collection, out, min_area_ha, seed or 0, device or "cpu")
        if cross_fit is not None:
            how = CrossFit(cross_fit, wrong_labels, epochs, seed or 0, device or "cpu")
            stored_training.train_cross_fitted(stored, min_parcels, how, activate_if)
            return
        stored_training.train_classifier(stored, min_parcels, epochs)
        return
    if cross_fit is not None:
        raise RunConfigError("--cross-fit is of a stored season: give --season and --collection, and no --config")
    if season is not None or collection is not None:
        raise RunConfigError(f"give --season and --collection, or --config {config}, not both")
    from training.config import read
    from training.run import run

    set_threads()
    given: dict[str, dict[str, Any]] = {
        "training": {"epochs": epochs, "seed": seed, "device": device},
        "run": {"folder": folder},
    }
    asked = read(config, given)
    with session(asked.training.device) as own, progress(asked, own) as (on_epoch, reading):
        found, final = run(asked, datetime.now(UTC), own, on_epoch, reading)
    if own.is_first:
        console.print(table(found))
        console.print(f"everything is in {asked.run.folder}")
        if final is not None and asked.data.kind == "database":
            register(final, asked.run.folder / "final")


@contextmanager
def progress(config: RunConfig, own: Session) -> Iterator[tuple[OnEpoch, Reading]]:
    """A bar over the patches that are cut, then over all epochs of all models, in the first process."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not own.is_first) as bar:
        task = bar.add_task("reading", total=None)
        names = [*(f"fold-{fold}" for fold in config.training.folds), *(["final"] if config.training.final else [])]

        def on_epoch(name: str, epoch: Epoch) -> None:
            of_model = epoch.rounds * epoch.of
            done = names.index(name) * of_model + (epoch.round - 1) * epoch.of + epoch.number
            score = "" if epoch.miou is None else f" mIoU {epoch.miou:.3f}"
            said = f"{name} {epoch.round}/{epoch.rounds} epoch {epoch.number}/{epoch.of} loss {epoch.loss:.3f}{score}"
            bar.update(task, completed=done, total=len(names) * of_model, description=said)
            if not console.is_terminal and epoch.number == epoch.of:
                console.print(said)

        def reading(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, description=f"cutting patch {done} of {of}")

        yield on_epoch, reading


def table(found: RunScores) -> Table:
    """Return the scores by day."""
    from rich.table import Table

    rows = Table("as known on", *(one.name for one in found.days))
    for name in ("mIoU", "macro-F1", "accuracy", "ECE"):
        values = [
            {"mIoU": one.miou, "macro-F1": one.crops.macro_f1, "accuracy": one.crops.accuracy, "ECE": one.crops.ece}[
                name
            ]
            for one in found.days
        ]
        rows.add_row(name, *(f"{one:.3f}" for one in values))
    return rows


def register(model: CropModel, folder: Path) -> None:
    """Register the final model of a stored season."""
    from training import season_models

    checkpoint = model.to_checkpoint()
    with engine(resolve_dsn()).begin() as connection:
        key = season_models.save(connection, "classifier", checkpoint, folder, datetime.now(UTC))
    console.print(f"model {key} ({checkpoint.model[:12]}) registered; `parcelwatch models activate` lets it watch")
