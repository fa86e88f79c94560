"""Figures 8, 9 and 11 of Garnot, Landrieu and Chehata 2022: patches as optics and radar see them, each scheme's prediction, and truth.

Patches are chosen by their score, not by eye: of all test patches those where one scheme (late fusion, or the last that is asked for)
scores highest, in the middle and lowest. The optical date is the one whose blue is darkest (95 % of pixels): clouds are bright there.
The radar date is the nearest to it. Networks are those of Tables 2 and 3, trained now or before; scores of patches are kept with the run.
Units:  scores of a patch by itself, 0..1; days since the season's start.
Errors: ExperimentError for patches without Sentinel-2 and Sentinel-1; those of a training.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch
from numpy.typing import NDArray

from models.segmentation.scoring import BACKGROUND
from research.experiments.schemes import ExperimentError
from research.experiments.segmentation import METRICS, Training
from training.patches import Patch, PatchSet, rows_of
from training.run_folder import write as write_whole
from training.segmentation_config import Task
from training.segmentation_fitting import Predicted, predicted
from training.segmentation_run import trained

OPTICAL: Final = "s2"
CLEAR_PERCENT: Final = 95
COLOURS: Final = (
    "#3cb44b", "#ffe119", "#f58231", "#911eb4", "#bfef45", "#f032e6", "#e6194b", "#800000", "#b9a0ff", "#9a6324",
    "#42d4f4", "#fabed4", "#469990", "#aaffc3", "#808000", "#000075", "#ffd8b1", "#4363d8",
)  # fmt: skip
"""Of classes 1 to 18, and again; twenty simple, distinct colours of S. Trubetskoy."""
GROUND: Final = "#f0f0f0"
VOID_COLOUR: Final = "#c4c4c4"
_STYLE: Final[Any] = {
    "font.size": 8,
    "hatch.linewidth": 0.5,
    "hatch.color": "#303030",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass(frozen=True)
class Shown:
    """A patch that is shown."""

    rank: str
    """Of its score among all test patches."""
    row: int
    fold: int
    patch: Patch
    answers: list[Predicted]
    """Of each scheme."""
    scores: list[float]


def measure(found: Sequence[Training], report: Callable[[str], None]) -> tuple[PatchSet, Training, list[Shown]]:
    """Return the patches, the training whose scores choose, and what is shown: highest, median and lowest score.

    Raises:
        ExperimentError: no optical or no radar images, or no patch with a score.
    """
    by = next((one for one in found if one.row.scheme == "late"), found[-1])
    patches = by.run.data.open()
    names = [one.name for one in patches.modalities]
    if OPTICAL not in names or not _radar(names):
        raise ExperimentError(f"{patches.name} has {', '.join(names)}: the picture shows {OPTICAL} and radar (s1...)")
    scores = sorted(
        (score, row, fold)
        for fold in by.run.training.folds
        for row, score in patch_scores(by, patches, fold, report)
        if not isnan(score)
    )
    if not scores:
        raise ExperimentError(f"{patches.name}: no test patch has a score: all are void")
    places = {"highest": len(scores) - 1, "median": (len(scores) - 1) // 2, "lowest": 0}
    shown = []
    for rank, place in {place: (rank, place) for rank, place in places.items()}.values():
        _, row, fold = scores[place]
        report(f"{rank} score: patch {row + 1}")
        each = [_answer(one, patches, fold, row) for one in found]
        shown.append(Shown(rank, row, fold, patches.read(row, names), [a for a, _ in each], [s for _, s in each]))
    return patches, by, shown


def patch_scores(
    training: Training, patches: PatchSet, fold: int, report: Callable[[str], None]
) -> list[tuple[int, float]]:
    """Return rows and scores of the patches of a test fold, each by itself, found now or before."""
    path = training.run.run.folder / f"fold-{fold}" / "patch-scores.json"
    rows = rows_of(patches, fold)[2].tolist()
    if not path.exists():
        report(f"{training.row.scheme}, fold {fold}: scores of {len(rows)} patches")
        network, loading = trained(training.run, patches, fold)
        scores = [
            one.score
            for loaded in loading.batches(rows)
            for one in predicted(network, loaded.batch, training.run).counts(loaded, patches.void)
        ]
        write_whole(path, json.dumps(scores))
    return list(zip(rows, json.loads(path.read_text()), strict=True))


def _answer(training: Training, patches: PatchSet, fold: int, row: int) -> tuple[Predicted, float]:
    network, loading = trained(training.run, patches, fold)
    loaded = loading.sample(row)
    answer = predicted(network, loaded.batch, training.run)
    return answer, answer.counts(loaded, patches.void)[0].score


def write(
    task: Task,
    folder: Path,
    found: Sequence[Training],
    patches: PatchSet,
    by: Training,
    shown: Sequence[Shown],
    title: str,
) -> str:
    """Write picture.png, picture.csv and picture.md; return how patches and dates were chosen."""
    metric = METRICS[task][0]
    tested = sum(len(rows_of(patches, fold)[2]) for fold in by.run.training.folds)
    rule = (
        f"Patches: highest, median and lowest {metric} of {_label(by)} among {tested} test patches, each by itself (seed {by.seed}; "
        f"numbered as in the folder). Optical date: darkest blue ({CLEAR_PERCENT} % of pixels), so the least cloud; radar: the nearest."
    )
    labels = [_label(one) for one in found]
    draw(folder / "picture.png", patches, labels, shown, metric, rule, has_outlines=task == "panoptic")
    with (folder / "picture.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["patch", "fold", "rank", *labels])
        rows.writerows([one.row + 1, one.fold, one.rank, *one.scores] for one in shown)
    lines = [f"| patch | | {' | '.join(labels)} |", "| --- | --- |" + " --: |" * len(labels)]
    lines += [
        f"| {one.row + 1}, fold {one.fold} | {one.rank} | {' | '.join(f'{score:.3f}' for score in one.scores)} |"
        for one in shown
    ]
    lines.append(f"| all test patches | pooled | {' | '.join(f'{one.result.metrics[metric]:.3f}' for one in found)} |")
    parts = [
        f"# {task.capitalize()}, patches: {title}",
        rule,
        "![patches](picture.png)",
        f"**{metric}**",
        "\n".join(lines),
    ]
    (folder / "picture.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return rule


def draw(
    path: Path,
    patches: PatchSet,
    labels: Sequence[str],
    shown: Sequence[Shown],
    metric: str,
    about: str,
    *,
    has_outlines: bool,
) -> None:
    """Draw a row a patch: optical, radar, each prediction with its score below, truth; crops by colour, void hatched."""
    heads = [
        "Sentinel-2\nred, green, blue",
        "Sentinel-1\nVV, VH, VV - VH",
        *(one.replace(", ", ",\n") for one in labels),
        "truth",
    ]
    seen: set[int] = set()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(1.6 * len(heads) + 0.3, 1.72 * len(shown) + 1.7), layout="constrained")
        axes = figure.subplots(len(shown), len(heads), squeeze=False)
        for line, one in zip(axes, shown, strict=True):
            void = one.patch.classes == patches.void
            below = _images(line[0], line[1], one.patch)
            maps = [(said.classes[0], None if said.fields is None else said.fields[0]) for said in one.answers]
            maps.append((one.patch.classes, one.patch.instances))
            for axis, (classes, fields) in zip(line[2:], maps, strict=True):
                seen |= set(np.unique(classes).tolist())
                _map(axis, classes, fields if has_outlines else None, void, patches.void)
            below += [*(f"{metric} {score:.3f}" for score in one.scores), ""]
            for axis, text in zip(line, below, strict=True):
                axis.set(xticks=[], yticks=[], xlabel=text)
            line[0].set_ylabel(f"{one.rank}: patch {one.row + 1}, fold {one.fold}")
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head, fontsize=8)
        figure.suptitle(fill(about, 27 * len(heads)), fontsize=8)
        swatches = {patches.classes[one]: _colour(one) for one in sorted(seen - {patches.void})}
        handles = [Swatch(facecolor=one, edgecolor="#555555", label=name) for name, one in swatches.items()]
        if any((one.classes == patches.void).any() for it in shown for one in it.answers):
            handles.append(Swatch(facecolor=VOID_COLOUR, edgecolor="#555555", label="void, predicted"))
        void_name = "void, not scored: parcels mostly outside of the patch"
        handles.append(Swatch(facecolor=VOID_COLOUR, hatch="/////", edgecolor="#303030", label=void_name))
        columns = max(3, int(0.65 * len(heads)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        figure.savefig(path)


def clear_date(images: NDArray[np.float32]) -> int:
    """Return the date (T, C, H, W) whose blue, the first channel, is darkest; a date with a pixel missing only where all have one."""
    blue = images[:, 0].reshape(len(images), -1)
    worth = np.nanpercentile(np.where(np.isnan(blue), np.inf, blue), CLEAR_PERCENT, axis=1)
    return int(np.argmin(worth))


def _images(optical: Axes, radar: Axes, patch: Patch) -> list[str]:
    """Draw the optical and the radar image; return what stands below each."""
    date = clear_date(patch.images[OPTICAL])
    day = patch.days[OPTICAL][date]
    optical.imshow(_stretched(patch.images[OPTICAL][date, [2, 1, 0]], (0, 1, 2)))  # B02, B03, B04 are first
    gaps = [(float(np.abs(days - day).min()), name) for name, days in patch.days.items() if name in _radar(patch.days)]
    name = min(gaps)[1]
    nearest = int(np.argmin(np.abs(patch.days[name] - day)))
    radar.imshow(_stretched(patch.images[name][nearest, :3], (1, 2)))
    return [f"day {day:.0f} of the season", f"{name.upper()}, day {patch.days[name][nearest]:.0f}"]


def _radar(names: Iterable[str]) -> list[str]:
    return [one for one in names if one.startswith("s1")]


def _stretched(channels: NDArray[np.float32], over: tuple[int, ...]) -> NDArray[np.float32]:
    """Return (H, W, 3) between 0 and 1: channels (3, H, W) from the 2nd to the 98th percentile over these axes."""
    low, high = np.nanpercentile(channels, (2, 98), axis=over, keepdims=True)
    shares = np.clip((channels - low) / np.maximum(high - low, 1e-6), 0, 1)
    image: NDArray[np.float32] = np.nan_to_num(shares).transpose(1, 2, 0).astype(np.float32)
    return image


def _map(
    axis: Axes, classes: NDArray[np.int64], fields: NDArray[np.int64] | None, void: NDArray[np.bool_], void_class: int
) -> None:
    """Draw a map of crops (H, W), the outlines of fields, and hatching where truth is void."""
    colours = np.array([to_rgb(VOID_COLOUR if one == void_class else _colour(one)) for one in range(classes.max() + 1)])
    axis.imshow(colours[classes], interpolation="nearest")
    if fields is not None:
        axis.add_collection(LineCollection(list(outlines(fields)), colors="black", linewidths=0.6))
    if void.any():
        height, width = void.shape
        fine = void.repeat(4, 0).repeat(4, 1).astype(float)
        extent = (-0.5, width - 0.5, -0.5, height - 0.5)
        axis.contourf(fine, [0.5, 1.5], colors="none", hatches=["/////"], extent=extent, origin="lower")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def outlines(fields: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (N, 2, 2) the edges of pixels, from x, y to x, y, between a field (H, W) and another or none."""
    row, column = np.nonzero(fields[:, 1:] != fields[:, :-1])
    upright = np.stack([column + 0.5, row - 0.5, column + 0.5, row + 0.5], 1)
    row, column = np.nonzero(fields[1:] != fields[:-1])
    level = np.stack([column - 0.5, row + 0.5, column + 0.5, row + 0.5], 1)
    return np.concatenate([upright, level]).reshape(-1, 2, 2)


def _colour(label: int) -> str:
    return GROUND if label == BACKGROUND else COLOURS[(label - 1) % len(COLOURS)]


def _label(training: Training) -> str:
    name = training.row.enhancement.name
    return training.row.scheme if name == "none" else f"{training.row.scheme}, {name}"
