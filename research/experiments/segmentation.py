"""Tables 2 and 3 of Garnot, Landrieu and Chehata 2022: segmentation and panoptic segmentation of one modality and of several.

    segmentation  S2, S1A, S1D, early, late, decision x (none, temporal dropout, both)        mIoU, void left out
    panoptic      S2, S1A, S1D, early, late                                                   SQ, RQ, PQ

Rows as published. Beside: their figures (PASTIS-R, published widths, void uncorrected in Table 3), and what needs no network: a random
forest on the series of each pixel by itself, interpolated to every 30 days; and fields of a watershed, each with the crop that the forest
(S2) gives most of its pixels, background left out. `--smoke` writes patches of the simulator and takes narrow networks, so that a table
takes minutes on a processor: those figures are of that configuration alone.
Units:  scores 0..1; parameters of inference.
Errors: ExperimentError, and those of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from db.sensors import S2_BANDS
from ingest.delineation.season import FINE
from ingest.delineation.segmenting import NEAR_INFRARED, RED
from models.segmentation.network import Fusion, interpolated
from models.segmentation.scoring import confusion
from models.segmentation.watershed import Watershed
from research.experiments import tables
from research.experiments.pastis_simulated import Simulated, write_simulated
from research.experiments.schemes import ENHANCEMENTS, FOREST, Enhancement, ExperimentError
from research.experiments.tables import Measurement
from training.patch_metadata import BACKGROUND
from training.patches import Loading, Patch, PatchSet, rows_of, training_folds
from training.segmentation_config import SegmentationRun, Task, parse
from training.segmentation_fitting import Epoch, Scores, panoptic_scores
from training.segmentation_run import Result, run_all

NONE, AUXILIARY, DROPOUT, BOTH = ENHANCEMENTS
PUBLISHED: Final = "published"
EVERY_D: Final = 30
"""Of the forest's features; chosen because PASTIS has a Sentinel-2 date in ten days, of which some are cloudy."""
CLOUD: Final = 0.15
"""Reflectance of B02 (blue) above which a pixel is taken for cloud (chosen: soils and crops lie below, the simulator's too)."""
BASELINES: Final[Mapping[Task, tuple[tuple[tuple[str, ...], str], ...]]] = {
    "segmentation": ((("s2",), f"{FOREST}, S2"), ((), f"{FOREST}, all")),
    "panoptic": ((("s2",), "watershed"),),
}
SEASON_D: Final = 425
TREES: Final = 100
PIXELS: Final = 20_000
"""Pixels that the forest is trained on, at most."""


@dataclass(frozen=True)
class Row:
    """A row of a table, and what was published of it."""

    scheme: str
    enhancement: Enhancement
    published: Mapping[str, float]
    """By metric."""
    parameters: int
    """As published, thousands."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return those it reads; none: all."""
        return (self.scheme.lower(),) if self.scheme.startswith("S") else ()

    @property
    def fusion(self) -> Fusion:
        """Return how modalities are fused, "late" of one."""
        return "late" if self.modalities else self.scheme  # type: ignore[return-value]


def _pixels(scheme: str, enhancement: Enhancement, miou: float, parameters: int) -> Row:
    return Row(scheme, enhancement, {"mIoU": miou / 100}, parameters)


def _fields(scheme: str, enhancement: Enhancement, sq: float, rq: float, pq: float, parameters: int) -> Row:
    names = ("SQ (void uncorrected)", "RQ (void uncorrected)", "PQ (void uncorrected)")
    return Row(scheme, enhancement, dict(zip(names, (sq / 100, rq / 100, pq / 100), strict=True)), parameters)


ROWS: Final[Mapping[Task, tuple[Row, ...]]] = {
    "segmentation": (
        _pixels("S2", NONE, 63.1, 1087),
        _pixels("S2", DROPOUT, 63.6, 1087),
        _pixels("S1D", NONE, 54.9, 1083),
        _pixels("S1D", DROPOUT, 54.7, 1083),
        _pixels("S1A", NONE, 53.8, 1083),
        _pixels("S1A", DROPOUT, 53.3, 1083),
        _pixels("early", NONE, 64.9, 1602),
        _pixels("early", DROPOUT, 65.8, 1602),
        _pixels("late", DROPOUT, 65.8, 1709),
        _pixels("late", BOTH, 66.3, 1709),
        _pixels("decision", DROPOUT, 64.7, 1742),
        _pixels("decision", BOTH, 64.3, 1742),
    ),
    "panoptic": (
        _fields("S2", NONE, 81.3, 49.2, 40.4, 1318),
        _fields("S1D", NONE, 77.0, 39.3, 30.9, 1318),
        _fields("S1A", NONE, 77.4, 38.8, 30.6, 1318),
        _fields("early", DROPOUT, 82.2, 50.6, 42.0, 1791),
        _fields("late", DROPOUT, 81.6, 50.5, 41.6, 2390),
    ),
}
METRICS: Final[Mapping[Task, tuple[str, ...]]] = {
    "segmentation": ("mIoU", "accuracy"),
    "panoptic": (
        "PQ", "SQ", "RQ", "PQ (void uncorrected)", "SQ (void uncorrected)", "RQ (void uncorrected)", "F1 of objects", "boundary IoU",
    ),
}  # fmt: skip
NOTE: Final = (
    'Column "published": Garnot, Landrieu and Chehata 2022 on PASTIS-R, five folds. Their counts of parameters of single modalities in '
    "Table 2 are ours; those of fused and of panoptic networks cannot be reproduced from the description, and are not tuned to."
)

SMOKE: Final = Simulated(patches=160, side=64, dates=(12, 12, 12), regions=("lowlands",))
SMOKE_MODEL: Final[Mapping[str, Any]] = {"encoder": (16, 16, 32), "decoder": (16, 16, 32), "attention": 64, "heads": 4}
SMOKE_TRAINING: Final[Mapping[str, Any]] = {
    "learning_rate": 0.005,
    "schedule": "cosine",
    "augment": True,
    "folds": (1,),
    "workers": 0,
    "validate_every": 5,
}
SMOKE_STEPS: Final[Mapping[Task, Mapping[str, int]]] = {
    "segmentation": {"epochs": 40, "batch": 4},
    "panoptic": {"epochs": 60, "batch": 2},
}
"""Narrow networks, and a schedule for few steps, chosen on pilots of seed 0 by their validation curves: minutes a row."""


def smoke_tables(task: Task, out: Path) -> dict[str, Any]:
    """Return the tables of the smoke configuration; write its patches into a folder where they are not yet."""
    folder = out / "patches"
    if not (folder / "NORM_S1D_patch.json").exists():  # written last
        write_simulated(folder, SMOKE)
    training = {**SMOKE_TRAINING, **SMOKE_STEPS[task]}
    return {"data": {"kind": "pastis", "path": str(folder)}, "model": dict(SMOKE_MODEL), "training": training}


def chosen(task: Task, schemes: Sequence[str], enhancements: Sequence[str] = ()) -> tuple[Row, ...]:
    """Return the rows of these schemes and enhancements; all for none.

    Raises:
        ExperimentError: the table has no such scheme or enhancement, or not together.
    """
    table = f"Table {2 + (task == 'panoptic')}"
    names = {
        "schemes": [row.scheme for row in ROWS[task]],
        "enhancements": [row.enhancement.name for row in ROWS[task]],
    }
    for option, asked in (("schemes", schemes), ("enhancements", enhancements)):
        if missing := [name for name in asked if name not in names[option]]:
            known = ", ".join(dict.fromkeys(names[option]))
            raise ExperimentError(f"--{option} {', '.join(missing)}: {table} has {known}")
    rows = [row for row in ROWS[task] if not schemes or row.scheme in schemes]
    found = tuple(row for row in rows if not enhancements or row.enhancement.name in enhancements)
    if not found:
        raise ExperimentError(f"{table} has no row of {', '.join(schemes)} with {', '.join(enhancements)}")
    return found


def run_of(task: Task, plain: Mapping[str, Any], row: Row, seed: int, out: Path) -> SegmentationRun:
    """Return the training of a row and seed: the tables with what the row says."""
    own = {
        "modalities": row.modalities,
        "fusion": row.fusion,
        "auxiliary": row.enhancement.is_auxiliary,
        "temporal_dropout": row.enhancement.has_temporal_dropout,
    }
    name = "-".join((task, row.scheme, row.enhancement.name.replace(" ", "-"), f"seed-{seed}"))
    made = {
        **plain,
        "model": {**plain.get("model", {}), **own},
        "training": {**plain.get("training", {}), "seed": seed},
        "run": {"folder": str(out / "runs" / name)},
    }
    return parse(task, made, "experiment")


class Training(NamedTuple):
    """A row with a seed, its run and what the run found."""

    row: Row
    seed: int
    run: SegmentationRun
    result: Result


def trainings(
    task: Task,
    plain: Mapping[str, Any],
    rows: Sequence[Row],
    seeds: Sequence[int],
    out: Path,
    now: datetime,
    report: Callable[[str], None],
) -> Iterator[Training]:
    """Yield every row with every seed, trained now or before."""
    for seed in seeds:
        for row in rows:
            run = run_of(task, plain, row, seed, out)
            label = f"{row.scheme}, {row.enhancement.name}, seed {seed}"

            def said(fold: str, epoch: Epoch, label: str = label) -> None:
                if epoch.number == epoch.of:
                    report(f"{label}: {fold} done, loss {epoch.loss:.3f}")

            yield Training(row, seed, run, run_all(run, run.data.open(), now, said))


def measure(
    task: Task,
    plain: Mapping[str, Any],
    rows: Sequence[Row],
    seeds: Sequence[int],
    out: Path,
    now: datetime,
    report: Callable[[str], None],
    *,
    with_forest: bool = True,
) -> list[Measurement]:
    """Return the scores of every row and seed, trained now or before, beside the published ones."""
    found: list[Measurement] = []
    for row, seed, run, result in trainings(task, plain, rows, seeds, out, now, report):
        key = (row.scheme, row.enhancement.name, seed, 0, 0.0)
        found += [Measurement(*key, "here", name, value) for name, value in result.metrics.items()]
        found.append(Measurement(*key, "here", "parameters", result.parameters))
        published = {**row.published, "parameters": row.parameters * 1000}
        if seed == seeds[0]:
            found += [Measurement(*key, PUBLISHED, name, value) for name, value in published.items()]
        for names, label in BASELINES[task] if with_forest and row is rows[-1] else ():
            report(f"{label}, seed {seed}")
            scores = forest_scores(run, run.data.open(), names, seed)
            found += [Measurement(label, "", seed, 0, 0.0, "here", *one) for one in scores.items()]
    return found


def forest_scores(run: SegmentationRun, patches: PatchSet, names: Sequence[str], seed: int) -> dict[str, float]:
    """Return the scores, pooled over test folds, of a random forest on each pixel's series, in panoptic segmentation with a watershed.

    Args:
        names: modalities that the forest reads; none: all.
    """
    used = tuple(names) or tuple(one.name for one in patches.modalities)
    found: list[Scores] = []
    for fold in run.training.folds:
        training, validation, test = rows_of(patches, fold)
        loading = Loading(patches, used, patches.statistics(training_folds(fold)), 1)
        # It chooses no epoch: the validation fold is learnt from, too.
        own = [_features(loading, int(row)) for row in (*training, *validation)]
        share = min(1.0, PIXELS / sum(len(y) for _, y in own))
        random = np.random.default_rng([seed, fold])
        kept = [random.random(len(y)) < share for _, y in own]
        x = np.concatenate([one[is_kept] for (one, _), is_kept in zip(own, kept, strict=True)])
        y = np.concatenate([one[is_kept] for (_, one), is_kept in zip(own, kept, strict=True)])
        is_known = y != patches.void
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1).fit(x[is_known], y[is_known])
        for row in test:
            features, true = _features(loading, int(row))
            classes = forest.predict(features)
            if run.task == "segmentation":
                found.append(Scores(confusion(classes, true, patches.void, patches.void)))
                continue
            patch = patches.read(int(row), used)
            fields, of_field = _watershed(patch, classes.reshape(patch.classes.shape))
            found.append(panoptic_scores(fields, of_field, patch.instances, patch.classes, patches.void))
    return sum(found[1:], found[0]).metrics()


def _watershed(patch: Patch, classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the fields (H, W) that a watershed draws, and of each pixel the class that most pixels of its field have."""
    images = patch.images["s2"][:, [S2_BANDS.index(name) for name in FINE]]
    # The folders have no masks of clouds.
    images[np.broadcast_to(images[:, :1] > CLOUD, images.shape)] = np.nan
    labels = Watershed()(images, RED, NEAR_INFRARED).labels
    votes = np.zeros((int(labels.max()) + 1, int(classes.max()) + 1), np.int64)
    np.add.at(votes, (labels.ravel(), classes.ravel()), 1)
    most = votes.argmax(1)
    most[0] = BACKGROUND
    return np.where(most[labels] != BACKGROUND, labels, 0), most[labels]


def _features(loading: Loading, row: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features (H x W, F) and classes (H x W,) of a patch."""
    loaded = loading.sample(row)
    days = torch.arange(0, SEASON_D, EVERY_D, dtype=torch.float32)[None]
    series = torch.cat([interpolated(one, days)[0].flatten(0, 1) for one in loaded.batch.values()])  # (F, H, W)
    return series.flatten(1).T.numpy(), loaded.classes.numpy().ravel()


def write(task: Task, out: Path, found: Sequence[Measurement], title: str) -> str:
    """Write TASK.csv and TASK.md; return the Markdown."""
    tables.write_csv(out / f"{task}.csv", found)
    parts = [f"# {task.capitalize()}: {title}", tables.NOTE, NOTE]
    parts += [tables.markdown(found, metric) for metric in METRICS[task]]
    parts.append(tables.markdown(found, "parameters", digits=0, best=None))
    reference = next(((one.scheme, one.enhancement) for one in found if one.scheme == "S2"), None)
    if reference is not None:
        here = [one for one in found if one.at == "here"]
        parts.append(tables.differences(here, METRICS[task][0], reference))
    text = "\n\n".join(parts) + "\n"
    (out / f"{task}.md").write_text(text, encoding="utf-8")
    return text
