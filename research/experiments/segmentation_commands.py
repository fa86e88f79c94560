"""`parcelwatch experiments segmentation | panoptic`: Tables 2 and 3 on a PASTIS-R folder, or in minutes on simulated patches."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from research.experiments import segmentation as experiment
from research.experiments import segmentation_clouds as clouds_experiment
from research.experiments import segmentation_picture as picture_experiment
from research.experiments import segmentation_timing as timing_experiment
from research.experiments import tables
from research.experiments.options import Task, by_task, names_in, numbers, with_common
from research.experiments.schemes import ExperimentError
from research.experiments.tables import Measurement
from terminal.output import console, plain, printable
from training.devices import require_device, set_threads
from training.segmentation_config import SegmentationRun
from training.segmentation_config import Task as PixelTask

Seeds = Annotated[str, typer.Option(help="seeds, by commas")]
Folds = Annotated[str, typer.Option(help="test folds, by commas; without it those of the file, or all")]
Enhanced = Annotated[str, typer.Option(help="none, temporal dropout, both; by commas; empty: all of the table")]
Epochs = Annotated[int | None, typer.Option(min=1, help="passes over the training patches")]


class Asked:
    """What every experiment with networks of pixels is asked for, checked; what is wrong is said before anything is made."""

    def __init__(
        self,
        task: PixelTask,
        path: Annotated[Path | None, typer.Option(help="PASTIS-R folder in patch form")] = None,
        config: Annotated[Path | None, typer.Option(help="TOML file of a training: data, model, training")] = None,
        smoke: Annotated[
            bool, typer.Option("--smoke", help="simulated patches and narrow networks: minutes on a processor")
        ] = False,
        schemes: Annotated[
            str, typer.Option(help="rows by commas, such as S2,early,late; empty: all of the table")
        ] = "",
        device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
        out: Annotated[
            Path | None, typer.Option(help="default: reports/experiments/TASK; trained runs are kept in OUT/runs")
        ] = None,
    ) -> None:
        if device is not None:
            require_device(device)
        self.task, self.path, self.config, self.is_smoke = task, path, config, smoke
        self.schemes, self.device = names_in(schemes), device
        self.out = out or Path("reports/experiments") / (f"{task}-smoke" if smoke else task)
        set_threads()

    @property
    def given(self) -> int:
        """Return how many of the options that say which patches were given."""
        return [self.path is not None, self.config is not None, self.is_smoke].count(True)

    def plain(self, **training: Any) -> dict[str, Any]:
        """Return data, model and training as plain tables, with values of [training] that were given; write simulated patches if asked to.

        Raises:
            ExperimentError: none or several say which patches, or the file cannot be read.
        """
        if self.given != 1:
            raise ExperimentError("which patches? give one of --path FOLDER, --config FILE and --smoke")
        found = _tables(self.task, self.path, self.config, self.is_smoke, self.out)
        given = {key: one for key, one in {**training, "device": self.device}.items() if one is not None}
        return {**found, "training": {**found.get("training", {}), **given}}

    def title(self, run: SegmentationRun) -> str:
        """Return the patches and the protocol in a line."""
        training = run.training
        return f"{self.networks(run)}, {training.epochs} epochs, folds {', '.join(map(str, training.folds))}"

    def networks(self, run: SegmentationRun) -> str:
        """Return the patches and the widths of networks in a line."""
        widths = "published widths" if run.model.is_published else f"narrow networks, encoder {list(run.model.encoder)}"
        own = str(getattr(run.data, "path", run.data.kind)) if self.given else "made-up patches of the published size"
        return f"{'smoke configuration, simulated patches' if self.is_smoke else own}, {widths}"

    def done(self, found: Sequence[Measurement], metric: str) -> None:
        """Show a table on the terminal, and where everything is."""
        console.print(tables.rich_table(found, metric))
        typer.echo(f"written to {printable(self.out)}")


def register(app: typer.Typer) -> None:
    """Add the commands to the group of experiments."""
    for name, function in (("segmentation", segmentation), ("panoptic", panoptic)):
        app.command(name, help=function.__doc__)(with_common(Asked, name, function))
    tasks = {task: with_common(Asked, task, picture) for task in (Task.SEGMENTATION, Task.PANOPTIC)}
    app.command("picture", help=picture.__doc__)(by_task(tasks))


def segmentation(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
    forest: Annotated[bool, typer.Option("--forest/--no-forest", help="a random forest on single pixels")] = True,
) -> None:
    """A crop for each pixel: one modality and fusions (Table 2), beside a forest on single pixels."""
    _table(asked, Protocol(asked, seeds, folds, enhancements, epochs), with_forest=forest)


def panoptic(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
    forest: Annotated[
        bool, typer.Option("--forest/--no-forest", help="fields of a watershed, crops of a forest")
    ] = True,
) -> None:
    """A mask and a crop for each field: one modality and fusions (Table 3), beside a watershed."""
    _table(asked, Protocol(asked, seeds, folds, enhancements, epochs), with_forest=forest)


def clouds(
    asked: Asked,
    seeds: Seeds = "0",
    folds: Folds = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
    draws: Annotated[int, typer.Option(help="random draws of the dates that are kept", min=1)] = 5,
) -> None:
    """Score against the share of optical dates kept (Fig. 7)."""
    protocol = Protocol(asked, seeds, folds, enhancements, epochs)
    found = clouds_experiment.measure(protocol.trainings(), _say, draws=draws)
    clouds_experiment.write(asked.task, asked.out, found, asked.title(protocol.first))
    asked.done(clouds_experiment.shown_of(asked.task, found), experiment.METRICS[asked.task][0])


def timing(
    asked: Asked,
    patches: Annotated[int, typer.Option(help="patches that are timed, at most", min=1)] = 3,
    rounds: Annotated[int, typer.Option(help="rounds over them, after one to warm up", min=1)] = 3,
) -> None:
    """Parameters and seconds a patch (Table 4), beside the published form; without --path, --config and --smoke on made-up patches."""
    rows = experiment.chosen(asked.task, asked.schemes)
    if asked.given:
        plain = asked.plain()
    else:
        device = {} if asked.device is None else {"device": asked.device}
        plain = {"data": timing_experiment.patches_of_published_size(asked.out, patches), "training": device}
    run = experiment.run_of(asked.task, plain, rows[0], 0, asked.out)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = timing_experiment.measure(asked.task, plain, rows, asked.out, _say, patches=patches, rounds=rounds)
    timing_experiment.write(asked.task, asked.out, found, asked.networks(run), run.training.device)
    asked.done(found, timing_experiment.SPEED)


def picture(
    asked: Asked,
    seed: Annotated[int, typer.Option(help="of the trained runs")] = 0,
    folds: Folds = "",
    enhancements: Enhanced = "",
    epochs: Epochs = None,
) -> None:
    """Test patches as optics and radar see them, each scheme's prediction and truth (Figs. 8, 9, 11)."""
    protocol = Protocol(asked, str(seed), folds, enhancements, epochs, is_one_a_scheme=True)
    trainings = list(protocol.trainings())
    shown = picture_experiment.measure(trainings, _say)
    _say(picture_experiment.write(asked.task, asked.out, trainings, *shown, asked.title(protocol.first)))
    typer.echo(f"written to {printable(asked.out / 'picture.png')}")


class Protocol:
    """Rows of a table, and how each is trained; what is wrong is said before anything is trained."""

    def __init__(
        self,
        asked: Asked,
        seeds: str,
        folds: str,
        enhancements: str,
        epochs: int | None,
        *,
        is_one_a_scheme: bool = False,
    ) -> None:
        """`is_one_a_scheme`: the last row of each scheme, which has the most enhancements."""
        if not (numbers_of_seeds := numbers("--seeds", seeds)):
            raise ExperimentError("--seeds: at least one")
        training = {"epochs": epochs, "folds": numbers("--folds", folds) or None}
        rows = experiment.chosen(asked.task, asked.schemes, names_in(enhancements))
        if is_one_a_scheme:
            rows = tuple({one.scheme: one for one in rows}.values())
        self.asked = (asked.task, asked.plain(**training), rows, numbers_of_seeds, asked.out)
        self.first = experiment.run_of(asked.task, self.asked[1], rows[0], numbers_of_seeds[0], asked.out)
        asked.out.mkdir(parents=True, exist_ok=True)

    def trainings(self) -> Iterator[experiment.Training]:
        """Yield every row with every seed, trained now or before."""
        return experiment.trainings(*self.asked, datetime.now(UTC), _say)


def _table(asked: Asked, protocol: Protocol, *, with_forest: bool) -> None:
    found = experiment.measure(*protocol.asked, datetime.now(UTC), _say, with_forest=with_forest)
    experiment.write(asked.task, asked.out, found, asked.title(protocol.first))
    asked.done(found, experiment.METRICS[asked.task][0])


def _say(line: str) -> None:
    console.print(plain(line))


def _tables(task: PixelTask, path: Path | None, config: Path | None, is_smoke: bool, folder: Path) -> dict[str, Any]:
    """Return data, model and training as plain tables; raises ExperimentError for a file that cannot be read."""
    if is_smoke:
        console.print("simulated patches")
        return experiment.smoke_tables(task, folder)
    if path is not None:
        return {"data": {"kind": "pastis", "path": str(path)}}
    assert config is not None
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (FileNotFoundError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{config}: {error}") from error
