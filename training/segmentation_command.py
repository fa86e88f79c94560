"""`parcelwatch models train segmentation | panoptic`: patches of imagery into networks of pixels and of fields, from a TOML file.

$ torchrun --nproc-per-node 4 --no-python parcelwatch models train segmentation --config FILE       several processes
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terminal.output import console, plain
from training.devices import require_device, session, set_threads

if TYPE_CHECKING:
    from training.segmentation_config import Task
    from training.segmentation_fitting import Epoch

Config = Annotated[Path, typer.Option(help="TOML file of a run: data, model, training, folder")]
Folder = Annotated[Path | None, typer.Option(help="folder of the run, instead of the file's")]
Epochs = Annotated[int | None, typer.Option(min=1, help="passes over the patches")]
Seed = Annotated[int | None, typer.Option(min=0)]
Device = Annotated[str | None, typer.Option(help="cpu or cuda")]


def segmentation(
    config: Config, folder: Folder = None, epochs: Epochs = None, seed: Seed = None, device: Device = None
) -> None:
    """Train U-TAE: a crop for each pixel of patches of imagery, cross-validated; a run that was stopped goes on."""
    _train("segmentation", config, folder, {"epochs": epochs, "seed": seed, "device": device})


def panoptic(
    config: Config, folder: Folder = None, epochs: Epochs = None, seed: Seed = None, device: Device = None
) -> None:
    """Train PaPs: a mask and a crop for each field of patches of imagery, cross-validated; a run that was stopped goes on."""
    _train("panoptic", config, folder, {"epochs": epochs, "seed": seed, "device": device})


def _train(task: Task, config: Path, folder: Path | None, given: dict[str, Any]) -> None:
    if given["device"] is not None:
        require_device(given["device"])
    from training.segmentation_config import read
    from training.segmentation_run import run_all

    run = read(task, config, {"training": given, "run": {"folder": folder}})
    set_threads()

    def said(name: str, epoch: Epoch) -> None:
        score = "" if epoch.score is None else f" validation {epoch.score:.3f}"
        console.print(plain(f"{name} epoch {epoch.number}/{epoch.of} loss {epoch.loss:.3f}{score}"))

    with session(run.training.device) as own:
        result = run_all(run, run.data.open(), datetime.now(UTC), said, own)
    if not own.is_first:
        return
    for name, value in result.metrics.items():
        console.print(plain(f"{name} {value:.3f}"))
    console.print(plain(f"{result.parameters:,} parameters; everything is in {run.run.folder}"))
