"""`parcelwatch experiments ndvi-dates | ndvi-clouds | ndvi-crops`: the experiments of Zhao et al. 2020 on any series.

Each writes a CSV, one page (report.md) and plots to its folder; trainings are kept under runs/ and never made twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markdown import Markdown

from research.experiments.ndvi import clouds as clouds_experiment
from research.experiments.ndvi import crops as crops_experiment
from research.experiments.ndvi import dates as dates_experiment
from research.experiments.ndvi import settings
from research.experiments.ndvi.runs import Runs, within
from research.experiments.ndvi.sources import Source, open_series
from research.experiments.ndvi.splits import N_FOLDS, SPLITS, Split
from research.experiments.options import names_in, numbers, with_common
from research.experiments.schemes import ExperimentError
from terminal.output import console, plain, printable
from terminal.stages import Stages


class Data(StrEnum):
    """Forms of series."""

    NL = "nl"
    SIMULATOR = "simulator"
    PATCHES = "patches"


class Splits(StrEnum):
    """How series are held back."""

    RANDOM = "random"
    BLOCKED = "blocked"
    BOTH = "both"


Folds = Annotated[str, typer.Option(help="test folds, by commas")]
MinViews = Annotated[int, typer.Option(help="views that a date needs to be scored", min=2)]
ALL_FOLDS: Final = "1,2,3,4,5"


class Asked:
    """What every experiment is asked for, checked; `runs` opens the source and the folder."""

    def __init__(
        self,
        name: str,
        data: Annotated[Data, typer.Option(help="form of the series")] = Data.NL,
        path: Annotated[Path | None, typer.Option(help="folder; nl and patches: in PARCELWATCH_DATA")] = None,
        parcels: Annotated[int, typer.Option(help="fields, with --data simulator", min=10)] = 360,
        pixels: Annotated[int, typer.Option(help="pixels drawn, with --data patches; 0: all", min=0)] = 1000,
        split: Annotated[
            Splits, typer.Option(help="random: as the paper; blocked: whole blocks held back")
        ] = Splits.BOTH,
        seeds: Annotated[str, typer.Option(help="training seeds, by commas")] = "0",
        models: Annotated[str, typer.Option(help="rows by commas: networks, or tables of --config")] = ",".join(
            settings.MODELS
        ),
        config: Annotated[
            Path | None, typer.Option(help="TOML: training of each model, tables all, mcnn-seq ...")
        ] = None,
        form: Annotated[
            str | None, typer.Option(help="extended (default) or paper: nothing but what is printed")
        ] = None,
        updates: Annotated[int | None, typer.Option(help="updates of every model", min=1)] = None,
        seconds: Annotated[
            float | None, typer.Option(help="processor seconds of every model, instead of updates", min=1)
        ] = None,
        out: Annotated[Path | None, typer.Option(help="default: reports/experiments/NAME-DATA")] = None,
        runs: Annotated[Path | None, typer.Option(help="trainings to share, such as OUT/runs of another")] = None,
        device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    ) -> None:
        where, tables = str(config or "command line"), settings.read(config)
        given = {"form": form, "n_updates": updates}
        tables[settings.ALL] = {
            **tables.get(settings.ALL, {}),
            **{key: one for key, one in given.items() if one is not None},
        }
        self.configs = settings.chosen(names_in(models), tables, where)
        if not self.configs:
            raise ExperimentError("--models: name at least one")
        self.source = Source(data.value, path, parcels=parcels, pixels=pixels or None)
        self.splits: tuple[Split, ...] = tuple(one for one in SPLITS if split in (Splits.BOTH, Splits(one)))
        self.seeds = numbers("--seeds", seeds)
        self.seconds, self.device = seconds, device
        self.out = out or Path("reports/experiments") / f"{name}-{data.value}"
        self.folder = runs or self.out / "runs"

    @contextmanager
    def runs(self) -> Iterator[Runs]:
        """The grid on the source, with a bar while it works."""
        with Stages(console).stage("experiment") as bar:
            bar.to(0.0, 1.0, "opening the source")
            data, configs = open_series(self.source), self.configs
            if self.seconds is not None:
                configs = within(self.seconds, data, configs, self.folder)
            self.out.mkdir(parents=True, exist_ok=True)
            yield Runs(self.folder, data, configs, self.device, lambda what, share: bar.to(share, 1.0, what)).open()

    def title(self, runs: Runs, what: str) -> str:
        """Return the source and the protocol in a line."""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        return f"{runs.data.series.name}, {what}, {seeds}"

    def show(self, page: str) -> None:
        """The page on the terminal down to its first plot, and where everything is."""
        shown = page.partition("\n![")[0]
        if console.file.isatty():
            console.print(Markdown(shown))
        else:  # Markdown stays Markdown: laid out it would be as wide as a file may be
            typer.echo("\n".join(map(printable, shown.splitlines())))
        console.print(f"written to {plain(self.out)}")


def dates(asked: Asked, folds: Folds = ALL_FOLDS, min_views: MinViews = 20) -> None:
    """NDVI from radar alone: R2 and RMSE on each date, the networks side by side (Fig. 6, Table 4)."""
    chosen = _folds(folds)
    with asked.runs() as runs:
        found = dates_experiment.measure(runs, asked.splits, chosen, asked.seeds, min_views)
        page = dates_experiment.write(asked.out, found, asked.title(runs, _said(chosen)), runs)
    asked.show(page)


def clouds(
    asked: Asked,
    folds: Folds = ALL_FOLDS,
    min_views: MinViews = 20,
    shares: Annotated[str, typer.Option(help="per cent under cloud, by commas")] = "50,70",
    reading: Annotated[
        str, typer.Option(help="series: complete series held back; views: of the others; by commas")
    ] = "series",
    draws: Annotated[int, typer.Option(help="random choices of what is held back, with series", min=1)] = 1,
) -> None:
    """NDVI from radar alone where complete optical series are missing (50 % and 70 % cloud)."""
    chosen, per_cent = _folds(folds), numbers("--shares", shares)
    readings = [one for one in clouds_experiment.READINGS if one in names_in(reading)]
    if not readings or len(readings) < len(set(names_in(reading))):
        raise ExperimentError(f"--reading {reading}: {', '.join(clouds_experiment.READINGS)}, at least one")
    if not per_cent or not all(0 < one < 100 for one in per_cent):
        raise ExperimentError(f"--shares {shares}: from 1 to 99 per cent, at least one")
    with asked.runs() as runs:
        found = clouds_experiment.measure(
            runs, asked.splits, [one / 100 for one in per_cent], readings, chosen, draws, asked.seeds, min_views
        )
        page = clouds_experiment.write(asked.out, found, asked.title(runs, f"{draws} draw{'s' if draws > 1 else ''}"))
    asked.show(page)


def crops(asked: Asked, folds: Folds = ALL_FOLDS) -> None:
    """NDVI from radar alone: R2, RMSE and mean curve of each crop (Table 3, Figs. 9 to 11)."""
    chosen = _folds(folds)
    with asked.runs() as runs:
        found = crops_experiment.measure(runs, asked.splits, chosen, asked.seeds)
        page = crops_experiment.write(asked.out, found, asked.title(runs, _said(chosen)))
    asked.show(page)


def register(app: typer.Typer) -> None:
    """Add the three commands, each with the options of `Asked` before its own."""
    for name, function in (("ndvi-dates", dates), ("ndvi-clouds", clouds), ("ndvi-crops", crops)):
        app.command(name, help=function.__doc__)(with_common(Asked, name, function))


def _said(folds: tuple[int, ...]) -> str:
    return "five folds pooled" if len(folds) == N_FOLDS else f"folds {', '.join(map(str, folds))} pooled"


def _folds(text: str) -> tuple[int, ...]:
    chosen = numbers("--folds", text)
    if not chosen or not set(chosen) <= set(range(1, N_FOLDS + 1)) or len(set(chosen)) < len(chosen):
        raise ExperimentError(f"--folds {text}: from 1 to {N_FOLDS}, each once, at least one")
    return chosen
