"""`parcelwatch experiments`: the published experiments on any source; each writes a CSV, a Markdown table and a plot."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from research.experiments import clouds as clouds_experiment
from research.experiments import fusion as fusion_experiment
from research.experiments import gradient_flow as gradient_flow_experiment
from research.experiments import in_season as in_season_experiment
from research.experiments import segmentation_commands, tables
from research.experiments import timing as timing_experiment
from research.experiments.grid import Grid
from research.experiments.ndvi import commands as ndvi_commands
from research.experiments.options import Command, Task, by_task, names_in, numbers, with_common
from research.experiments.schemes import ENHANCEMENTS, Enhancement, ExperimentError, Scheme, chosen
from research.experiments.tables import Measurement
from terminal.output import console, printable
from terminal.stages import Stages
from training.config import parse
from training.sources import open_source

app = typer.Typer(
    no_args_is_help=True,
    help="The published experiments: fusion, clouds, gradient flow, timing, segmentation; and the score in season.",
)


class Source(StrEnum):
    """Forms of labelled parcels."""

    NL = "nl"
    FR = "fr"
    SIMULATOR = "simulator"
    PASTIS = "pastis"
    PIXELSET = "pastis-pixelset"
    DATABASE = "database"


class Norm(StrEnum):
    """Normalisations of the attention."""

    STREAMING = "streaming"
    STREAMING_DATE = "streaming-date"
    PUBLISHED = "published"


Seeds = Annotated[str, typer.Option(help="seeds, by commas")]
Folds = Annotated[str, typer.Option(help="test folds, by commas")]
Schemes = Annotated[str, typer.Option(help="rows by commas, such as S2,radar,late; empty: all that the source allows")]
Enhanced = Annotated[str, typer.Option(help="none, auxiliary, temporal dropout, both; by commas")]
Forest = Annotated[bool, typer.Option("--forest/--no-forest", help="a random forest on the same folds and dates")]
Draws = Annotated[int, typer.Option(help="random draws of the dates that are kept", min=1)]
ALL_FOLDS = "1,2,3,4,5"

Rows = tuple[tuple[Scheme, ...], tuple[Enhancement, ...]]
Runs = tuple[tuple[int, ...], tuple[int, ...]]
"""Seeds and folds."""


def experiment(name: str, pixels: Command | None = None) -> Callable[[Command], Command]:
    """Make a command of a function: the options of `Asked` come before its own; `pixels`: with networks of pixels, by --task."""

    def register(function: Command) -> Command:
        command = with_common(Asked, name, function)
        if pixels is not None:
            commands = {one: with_common(segmentation_commands.Asked, one, pixels) for one in Task}
            command = by_task({**commands, Task.CLASSIFICATION: command})
        app.command(name, help=function.__doc__)(command)
        return function

    return register


class Asked:
    """What every experiment is asked for, checked; `grid` opens the source."""

    def __init__(
        self,
        name: str,
        data: Annotated[Source | None, typer.Option(help="form of the source")] = None,
        path: Annotated[Path | None, typer.Option(help="folder of the source; nl and fr: in PARCELWATCH_DATA")] = None,
        config: Annotated[Path | None, typer.Option(help="file of a training run: data, model, training")] = None,
        season: Annotated[str | None, typer.Option(help="season, with --data database")] = None,
        collection: Annotated[str | None, typer.Option(help="collection, with --data database")] = None,
        parcels: Annotated[int | None, typer.Option(help="fields, with --data simulator", min=1)] = None,
        epochs: Annotated[int | None, typer.Option(help="passes over the training parcels", min=1)] = None,
        normalisation: Annotated[Norm | None, typer.Option(help="published: couples dates, does not stream")] = None,
        out: Annotated[Path | None, typer.Option(help="default: reports/experiments/NAME-DATA")] = None,
        runs: Annotated[Path | None, typer.Option(help="trained runs to share, such as OUT/runs of another")] = None,
        device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    ) -> None:
        plain: dict[str, Any] = _toml(config) if config else {}
        if data is not None:
            own = {"path": path, "season": season, "collection": collection, "parcels": parcels}
            plain["data"] = {"kind": data.value, **{key: value for key, value in own.items() if value is not None}}
        if "data" not in plain:
            raise ExperimentError("which parcels? give --data, or --config with a table [data]")
        self.out = out or Path("reports/experiments") / f"{name}-{plain['data'].get('kind')}"
        given = {"epochs": epochs, "device": device}
        plain["training"] = {**plain.get("training", {}), **{key: one for key, one in given.items() if one is not None}}
        if normalisation is not None:
            plain["model"] = {**plain.get("model", {}), "normalisation": normalisation.value}
        plain["run"] = {"folder": str(self.out)}
        self.config, self.runs = parse(plain, str(config or "command line")), runs or self.out / "runs"

    @contextmanager
    def grid(self) -> Iterator[Grid]:
        """The grid on the source, with a bar while it works."""
        with Stages(console).stage("experiment") as bar:
            bar.to(0.0, 1.0, "opening the source")
            source = open_source(self.config.data, lambda done, of: bar.to(done, of, "cutting patches"))
            protocol = self.config.model, self.config.training
            grid = Grid(self.runs, source, protocol, lambda what, share: bar.to(share, 1.0, what))
            self.out.mkdir(parents=True, exist_ok=True)
            yield grid.open()

    @contextmanager
    def rows(self, seeds: str, folds: str, schemes: str, enhancements: str) -> Iterator[tuple[Grid, Rows, Runs]]:
        """The grid, what its table has rows of, and the runs behind each."""
        how = numbers("--seeds", seeds), _folds(folds)
        with self.grid() as grid:
            yield grid, (chosen(grid.data, names_in(schemes)), _enhancements(enhancements)), how

    def title(self, grid: Grid, seeds: Sequence[int], folds: Sequence[int]) -> str:
        """Return the source and the protocol in a line."""
        numbers = f"folds {', '.join(map(str, folds))}, seeds {', '.join(map(str, seeds))}"
        return f"{grid.data.name}, {numbers}, {self.config.training.epochs} epochs"

    def show(self, found: Sequence[Measurement], *metrics: str) -> None:
        """The tables on the terminal, and where everything is."""
        for metric in metrics:
            console.print(
                tables.rich_table(found, metric, digits=0 if metric in ("parameters", "parcels a second") else 3)
            )
        typer.echo(f"written to {printable(self.out)}")


@experiment("fusion")
def fusion(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = ALL_FOLDS,
    schemes: Schemes = "",
    enhancements: Enhanced = "none,auxiliary,temporal dropout,both",
    forest: Forest = True,
) -> None:
    """Fusion schemes x enhancements (Table 1), beside single modalities and a forest."""
    with asked.rows(seeds, folds, schemes, enhancements) as (grid, rows, how):
        found = fusion_experiment.measure(grid, *rows, *how, with_forest=forest)
        fusion_experiment.write(asked.out, found, asked.title(grid, *how), grid.data.day_names)
    asked.show(found, "macro-F1")


@experiment("clouds", segmentation_commands.clouds)
def clouds(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = ALL_FOLDS,
    schemes: Schemes = "S2,radar,early,mid,late,decision",
    enhancements: Enhanced = "both",
    draws: Draws = 5,
) -> None:
    """Score against the share of optical dates kept (Fig. 7)."""
    with asked.rows(seeds, folds, schemes, enhancements) as (grid, rows, how):
        found = clouds_experiment.measure(grid, *rows, *how, draws=draws)
        clouds_experiment.write(asked.out, found, asked.title(grid, *how))
    asked.show([one for one in found if one.x in clouds_experiment.SHOWN], "macro-F1")


@experiment("gradient-flow")
def gradient_flow(asked: Asked, seeds: Seeds = "0", folds: Folds = "1", schemes: Schemes = "late") -> None:
    """Where the gradient goes: each modality's share, with and without auxiliary supervision (Eq. 9, Fig. 6)."""
    how = numbers("--seeds", seeds), _folds(folds)
    with asked.grid() as grid:
        found = gradient_flow_experiment.measure(grid, chosen(grid.data, names_in(schemes)), *how)
        some = gradient_flow_experiment.write(asked.out, found, asked.title(grid, *how))
    x = sorted({one.x for one in some})
    asked.show([one for one in some if one.x in (x[0], x[len(x) // 2], x[-1])], gradient_flow_experiment.SHARE)


@experiment("timing", segmentation_commands.timing)
def timing(asked: Asked, schemes: Schemes = "") -> None:
    """Parameters, seconds of an epoch and parcels a second (Table 4), beside the published form."""
    with asked.grid() as grid:
        found = timing_experiment.measure(grid, chosen(grid.data, names_in(schemes)), ENHANCEMENTS[-1], 1)
        timing_experiment.write(asked.out, found, grid.data.name, grid.device)
    asked.show(found, *timing_experiment.METRICS)


@experiment("in-season")
def in_season(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = ALL_FOLDS,
    schemes: Schemes = "late",
    enhancements: Enhanced = "both",
    forest: Forest = True,
) -> None:
    """Score against the date of the season, every fifteen days and on the scored dates."""
    with asked.rows(seeds, folds, schemes, enhancements) as (grid, rows, how):
        found = in_season_experiment.measure(grid, *rows, *how, with_forest=forest)
        in_season_experiment.write(asked.out, found, grid, *rows, *how, asked.title(grid, *how))
    asked.show([one for one in found if one.at in grid.data.day_names], "macro-F1")


ndvi_commands.register(app)
segmentation_commands.register(app)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"{path}: {error}") from error


def _folds(text: str) -> tuple[int, ...]:
    chosen = numbers("--folds", text)
    if not chosen or not set(chosen) <= set(range(1, 6)):
        raise ExperimentError(f"--folds {text}: from 1 to 5, at least one")
    return chosen


def _enhancements(text: str) -> tuple[Enhancement, ...]:
    known = {one.name: one for one in ENHANCEMENTS}
    if missing := [name for name in names_in(text) if name not in known]:
        raise ExperimentError(f"--enhancements {', '.join(missing)}: known are {', '.join(known)}")
    return tuple(known[name] for name in names_in(text))
