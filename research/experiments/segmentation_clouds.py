"""Figure 7b of Garnot, Landrieu and Chehata 2022, and PQ on 30 % of the optical dates: score of networks of pixels against the share kept.

    kept(t) = rank of u_t among the patch's S2 dates < round(ratio n)        u_t uniform, the same for every ratio and every row

Dates are taken away at test time only, radar is left as it is; networks are those of Tables 2 and 3, trained now or before. With all
dates (ratio 1) it is the table's own score. A draw takes dates away from each patch on its own; what a smaller ratio keeps a larger keeps.
Counts of a draw are kept in the run's folder (fold-K/clouds-DRAW.json), so that a command that was stopped goes on where it was.
Units:  ratio 1 (all dates) to 0 (none), scores 0..1.
Errors: ExperimentError for patches without Sentinel-2; those of a training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from models.segmentation.network import Batch, ImageSeries
from research.experiments import plots, tables
from research.experiments.clouds import OPTICAL, RATIOS
from research.experiments.schemes import ExperimentError
from research.experiments.segmentation import METRICS, Training
from research.experiments.tables import Measurement
from training.patches import PatchSet, rows_of
from training.run_folder import write as write_whole
from training.segmentation_config import SegmentationRun, Task
from training.segmentation_fitting import Scores, predicted
from training.segmentation_run import counts_from, counts_of, counts_to, trained

SHOWN: Final = (1.0, 0.7, 0.5, 0.3, 0.1, 0.0)
"""Ratios of the Markdown tables and of the terminal's."""
PLOTTED: Final = {"segmentation": ("mIoU", "accuracy"), "panoptic": ("PQ", "RQ")}
PUBLISHED: Final = {("S2", "none"): 0.330, ("late", "temporal dropout"): 0.376}
"""PQ (void uncorrected) on 0.3 of the optical dates, section 4.5; Fig. 7b has no figures in the text."""
PUBLISHED_AT: Final = (0.3, "0.3, published")


def measure(
    found: Iterable[Training], report: Callable[[str], None], *, draws: int = 5, ratios: Sequence[float] = RATIOS
) -> list[Measurement]:
    """Return the scores of every trained run, ratio and draw, pooled over the test folds.

    Raises:
        ExperimentError: the patches have no Sentinel-2 to take dates from.
    """
    measurements = []
    for row, seed, run, _ in found:
        patches = run.data.open()
        if OPTICAL not in (names := [one.name for one in patches.modalities]):
            raise ExperimentError(f"{patches.name} has {', '.join(names)}: no modality {OPTICAL} to take dates from")
        has_optical = not row.modalities or OPTICAL in row.modalities
        label = f"{row.scheme}, {row.enhancement.name}, seed {seed}"
        for draw in range(draws):
            folds = [_counts(run, patches, fold, draw, ratios, has_optical=has_optical) for fold in run.training.folds]
            report(f"{label}: draw {draw + 1} of {draws}")
            for ratio, *own in zip(ratios, *folds, strict=True):
                key = (row.scheme, row.enhancement.name, seed, draw, ratio, f"{ratio:.1f}")
                pooled = sum(own[1:], own[0]).metrics()
                measurements += [Measurement(*key, name, value) for name, value in pooled.items()]
    return measurements


def without_optical(batch: Batch, rows: Sequence[int], ratio: float, draw: int) -> dict[str, ImageSeries]:
    """Return the batch with the share `ratio` of each patch's S2 dates, drawn at random; `rows`: of its patches in their set."""
    valid = batch[OPTICAL].valid
    kept = torch.zeros_like(valid)
    for nr, row in enumerate(rows):
        dates = valid[nr].nonzero()[:, 0]
        order = np.random.default_rng([draw, row]).permutation(len(dates))
        kept[nr, dates[order[: round(ratio * len(dates))]]] = True
    return {**batch, OPTICAL: replace(batch[OPTICAL], valid=kept)}


def write(task: Task, folder: Path, measurements: Sequence[Measurement], title: str) -> str:
    """Write clouds.csv, clouds.md and clouds.png; return the Markdown."""
    tables.write_csv(folder / "clouds.csv", measurements)
    metrics = METRICS[task][:1] if task == "segmentation" else ("PQ", "PQ (void uncorrected)")
    shown = shown_of(task, measurements)
    parts = [f"# Score against the share of optical dates kept, {task}: {title}", tables.NOTE]
    parts += [tables.markdown(shown, metric) for metric in metrics]
    parts += findings(measurements, metrics[0])
    text = "\n\n".join(parts) + "\n"
    (folder / "clouds.md").write_text(text, encoding="utf-8")
    x_label = "share of optical dates kept"
    plots.lines(folder / "clouds.png", measurements, PLOTTED[task], x_label=x_label, is_falling=True)
    return text


def shown_of(task: Task, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements of the ratios that tables show, and what was published of these rows."""
    shown = [one for one in measurements if one.x in SHOWN]
    rows = {(one.scheme, one.enhancement): one.seed for one in reversed(measurements)}  # with the first seed
    if task == "panoptic":
        metric = "PQ (void uncorrected)"
        shown += [
            Measurement(*row, rows[row], 0, *PUBLISHED_AT, metric, pq) for row, pq in PUBLISHED.items() if row in rows
        ]
    return shown


def findings(measurements: Sequence[Measurement], metric: str) -> list[str]:
    """Return what section 4.4 finds, and what it is here: a line each, of the rows that were asked for."""
    means = {(row, at): cell.mean for (row, at), cell in tables.cells(measurements, metric).items()}
    rows = list(dict.fromkeys(row for row, _ in means))
    radar = [(means[row, "1.0"], row) for row in rows if row[0].startswith("S1")]
    found = []
    if radar:
        best, name = max(radar)
        text = "{}: {:.3f} on {} of the optical dates, the best radar ({}) {:.3f}"
        for scheme, at in (("S2", "0.3"), ("decision", "0.1")):
            found += [
                text.format(tables.label(row), means[row, at], at, tables.label(name), best)
                for row in rows
                if row[0] == scheme
            ]
    found += [
        f"{tables.label(row)}: {means[row, '0.5'] - means[row, '1.0']:+.3f} with half of the optical dates"
        for row in rows
        if row[0] in ("early", "late", "decision")
    ]
    published = (
        "Published (Fig. 7b, in words): S2 is below radar alone where 70 % of its dates are gone; fused networks hardly lose with half of "
        "them; early fusion loses most, decision fusion is above radar even on 10 %. Here:"
    )
    return ["\n".join([published, "", *(f"- {one}" for one in found)])] if found else []


def _counts(
    run: SegmentationRun, patches: PatchSet, fold: int, draw: int, ratios: Sequence[float], *, has_optical: bool
) -> list[Scores]:
    """Return the counts of a test fold at each ratio; where no dates are taken away those of the run."""
    whole = counts_of(run, fold)
    if not has_optical:
        return [whole] * len(ratios)
    path = run.run.folder / f"fold-{fold}" / f"clouds-{draw}.json"
    kept = (
        {float(ratio): counts_from(one) for ratio, one in json.loads(path.read_text()).items()} if path.exists() else {}
    )
    if wanted := [one for one in ratios if one < 1 and one not in kept]:
        network, loading = trained(run, patches, fold)
        rows, found = rows_of(patches, fold)[2].tolist(), {ratio: list[Scores]() for ratio in wanted}
        for nr, loaded in enumerate(loading.batches(rows)):
            own = rows[nr * loading.batch :][: loading.batch]
            for ratio in wanted:
                answer = predicted(network, without_optical(loaded.batch, own, ratio, draw), run)
                found[ratio] += answer.counts(loaded, patches.void)
        kept |= {ratio: sum(one[1:], one[0]) for ratio, one in found.items()}
        write_whole(path, json.dumps({str(ratio): counts_to(one) for ratio, one in kept.items()}))
    return [whole if ratio == 1 else kept[ratio] for ratio in ratios]
