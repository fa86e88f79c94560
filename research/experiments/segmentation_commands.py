"""`parcelwatch experiments segmentation | panoptic`: Tables 2 and 3 on a PASTIS-R folder, or in minutes on simulated patches."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from research.experiments import tables
from research.experiments.options import names_in, numbers
from research.experiments.schemes import ExperimentError
from terminal.output import console, plain, printable
from training.devices import require_device, set_threads

if TYPE_CHECKING:
    from training.segmentation_config import Task

Folder = Annotated[Path | None, typer.Option(help="PASTIS-R folder in patch form")]
Config = Annotated[Path | None, typer.Option(help="TOML file of a training: data, model, training")]
Smoke = Annotated[bool, typer.Option("--smoke", help="simulated patches and narrow networks: minutes on a processor")]
Seeds = Annotated[str, typer.Option(help="seeds, by commas")]
Folds = Annotated[str, typer.Option(help="test folds, by commas; without it those of the file, or all")]
Schemes = Annotated[str, typer.Option(help="rows by commas, such as S2,early,late; empty: all of the table")]
Enhanced = Annotated[str, typer.Option(help="none, temporal dropout, both; by commas; empty: all of the table")]
Epochs = Annotated[int | None, typer.Option(min=1, help="passes over the training patches")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda")]
Out = Annotated[Path | None, typer.Option(help="default: reports/experiments/NAME")]


def register(app: typer.Typer) -> None:
    """Add the commands to the group of experiments."""
    app.command("segmentation")(segmentation)
    app.command("panoptic")(panoptic)


def segmentation(
    path: Folder = None,
    config: Config = None,
    smoke: Smoke = False,
    seeds: Seeds = "0",
    folds: Folds = "",
    schemes: Schemes = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
    forest: Annotated[bool, typer.Option("--forest/--no-forest", help="a random forest on single pixels")] = True,
    device: Device = None,
    out: Out = None,
) -> None:
    """A crop for each pixel: one modality and fusions (Table 2), beside a forest on single pixels."""
    _run(
        "segmentation",
        path,
        config,
        smoke,
        (seeds, folds, schemes, enhancements),
        epochs,
        device,
        out,
        with_forest=forest,
    )


def panoptic(
    path: Folder = None,
    config: Config = None,
    smoke: Smoke = False,
    seeds: Seeds = "0",
    folds: Folds = "",
    schemes: Schemes = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
    forest: Annotated[
        bool, typer.Option("--forest/--no-forest", help="fields of a watershed, crops of a forest")
    ] = True,
    device: Device = None,
    out: Out = None,
) -> None:
    """A mask and a crop for each field: one modality and fusions (Table 3), beside a watershed."""
    _run(
        "panoptic", path, config, smoke, (seeds, folds, schemes, enhancements), epochs, device, out, with_forest=forest
    )


def _run(
    task: Task,
    path: Path | None,
    config: Path | None,
    is_smoke: bool,
    asked: tuple[str, str, str, str],
    epochs: int | None,
    device: str | None,
    out: Path | None,
    *,
    with_forest: bool,
) -> None:
    seeds, folds, schemes = numbers("--seeds", asked[0]), numbers("--folds", asked[1]), names_in(asked[2])
    if device is not None:
        require_device(device)
    from research.experiments import segmentation as experiment

    rows = experiment.chosen(task, schemes, names_in(asked[3]))
    folder = out or Path("reports/experiments") / (f"{task}-smoke" if is_smoke else task)
    set_threads()
    tables_of = _tables(task, path, config, is_smoke, folder)
    given = {"epochs": epochs, "device": device, "folds": folds or None}
    training = {key: one for key, one in given.items() if one is not None}
    tables_of["training"] = {**tables_of.get("training", {}), **training}
    first = experiment.run_of(
        task, tables_of, rows[0], seeds[0], folder
    )  # what is wrong is said before anything is trained
    folder.mkdir(parents=True, exist_ok=True)
    found = experiment.measure(
        task,
        tables_of,
        rows,
        seeds,
        folder,
        datetime.now(UTC),
        lambda line: console.print(plain(line)),
        with_forest=with_forest,
    )
    widths = "published widths" if first.model.is_published else f"narrow networks, encoder {list(first.model.encoder)}"
    source = "smoke configuration, simulated patches" if is_smoke else str(getattr(first.data, "path", first.data.kind))
    title = f"{source}, {widths}, {first.training.epochs} epochs, folds {', '.join(map(str, first.training.folds))}"
    experiment.write(task, folder, found, title)
    console.print(tables.rich_table(found, experiment.METRICS[task][0]))
    typer.echo(f"written to {printable(folder)}")


def _tables(task: Task, path: Path | None, config: Path | None, is_smoke: bool, folder: Path) -> dict[str, Any]:
    """Return data, model and training as plain tables.

    Raises:
        ExperimentError: not exactly one of the three was given, or a file cannot be read.
    """
    if [path is not None, config is not None, is_smoke].count(True) != 1:
        raise ExperimentError("which patches? give one of --path FOLDER, --config FILE and --smoke")
    if is_smoke:
        from research.experiments.segmentation import smoke_tables

        console.print("simulated patches")
        return smoke_tables(task, folder)
    if path is not None:
        return {"data": {"kind": "pastis", "path": str(path)}}
    assert config is not None
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (FileNotFoundError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{config}: {error}") from error
