"""Table 3 and Figs. 9 to 11 of Zhao et al. 2020: R2 and RMSE of each crop, and its mean curve with two standard deviations.

    R2 of views    over all clear views of the crop's parcels, about their mean
    R2 of curve    over dates: the mean of the views on a date against the mean of the reconstruction at the same views, dates
                   that show at least 5 and a quarter of the crop's parcels

The paper's figures by crop (0.70 to 0.98) lie above its own by date (0.74 to 0.89), so they may be of either kind: both are given.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.ndvi.published.training import r2
from research.experiments.ndvi import pages, plots
from research.experiments.ndvi.runs import Answer, Runs
from research.experiments.ndvi.scores import Score, Views, over_seeds, pooled
from research.experiments.ndvi.splits import Split, fold_trials

SEASON = "season"
CURVE = "mean curve"
MIN_OF_MEAN = 5
"""Views whose mean is a point of a curve (chosen because two standard deviations of fewer say nothing)."""
MIN_SHARE = 0.25
"""Share of the crop's parcels that such a date shows: the mean of fewer jumps with the choice of parcels, not with the season."""


class CurvePoint(NamedTuple):
    """A date of a crop's mean curve, a row of crop-curves.csv."""

    split: str
    model: str
    crop: str
    date: str
    day: int
    n: int
    observed: float
    observed_sd: float
    reconstructed: float
    """At the same views."""
    reconstructed_sd: float


@dataclass(frozen=True)
class Found:
    """What was measured."""

    scores: list[Score]
    """`at` is "season" (views) or "mean curve" (dates)."""
    curves: list[CurvePoint]
    """Of the first seed."""
    n_parcels: dict[str, int]
    """Answered parcels of each crop."""
    cost: dict[str, pages.Cost]


def measure(runs: Runs, splits: Sequence[Split], folds: Sequence[int], seeds: Sequence[int]) -> Found:
    """Return the figures of every split, model, seed and crop on the pooled folds."""
    group = runs.data.series.group
    crops = sorted(set(group.tolist()) - {""})
    scores, curves, counts, answers = list[Score](), list[CurvePoint](), dict[str, int](), list[tuple[str, Answer]]()
    for split in splits:
        trials = fold_trials(runs.data.series, split, folds)
        said = runs.answers(trials, seeds)
        answers += [(model, one) for (model, _, _), one in said.items()]
        for model in runs.configs:
            for seed in seeds:
                views = pooled(runs.data, [said[model, trial.name, seed] for trial in trials])
                for crop in crops:
                    own = views.of(group[views.parcel] == crop)
                    if not len(own.parcel):
                        continue
                    counts[crop] = len(np.unique(own.parcel))
                    points = _curve(runs, own, split, model, crop)
                    scores.append(own.score(split, model, crop, SEASON, float("nan"), seed))
                    scores += [_of_curve(points, seed)] if len(points) > 1 else []
                    curves += points if seed == seeds[0] else []
    return Found(scores, curves, counts, pages.costs(runs, answers))


def write(folder: Path, found: Found, title: str) -> str:
    """Write crops.csv, crop-curves.csv, report.md and the plots; return the Markdown."""
    pages.write_csv(folder / "crops.csv", found.scores)
    with (folder / "crop-curves.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(CurvePoint._fields)
        writer.writerows(found.curves)
    parts = [f"# NDVI from radar alone, crop by crop: {title}", pages.NOTE, pages.cost_table(found.cost)]
    for split in dict.fromkeys(one.split for one in found.scores):
        parts += [
            f"## {split.capitalize()} split",
            _table([one for one in found.scores if one.split == split], found.n_parcels),
        ]
        for model in dict.fromkeys(one.model for one in found.curves):
            own = [one for one in found.curves if (one.split, one.model) == (split, model)]
            plots.crops(folder / f"crops-{split}-{model}.png", own, f"{model}, {split} split")
            parts.append(f"![Mean curves of {model}](crops-{split}-{model}.png)")
    parts.append(
        "Curves: mean and two standard deviations over a crop's parcels, of the views and of the reconstruction at them."
    )
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


def _curve(runs: Runs, views: Views, split: Split, model: str, crop: str) -> list[CurvePoint]:
    days, counts = np.unique(views.day, return_counts=True)
    found = []
    needed = max(MIN_OF_MEAN, MIN_SHARE * len(np.unique(views.parcel)))
    for day in days[counts >= needed]:
        y, f = (one[views.day == day] for one in (views.observed, views.predicted))
        found.append(
            CurvePoint(
                split,
                model,
                crop,
                runs.data.on(day).isoformat(),
                int(day),
                len(y),
                float(y.mean()),
                float(y.std()),
                float(f.mean()),
                float(f.std()),
            )
        )
    return found


def _of_curve(points: Sequence[CurvePoint], seed: int) -> Score:
    y, f = np.array([one.observed for one in points]), np.array([one.reconstructed for one in points])
    one, bias = points[0], float((f - y).mean())
    rmse = float(np.sqrt(np.mean((f - y) ** 2)))
    return Score(
        one.split,
        one.model,
        one.crop,
        CURVE,
        float("nan"),
        seed,
        len(y),
        float(y.mean()),
        r2(y, f),
        rmse,
        bias,
        r2(y, f - bias),
    )


def _table(scores: Sequence[Score], n_parcels: dict[str, int]) -> str:
    """Return a row a crop: parcels and views, then of each model R2 and RMSE of views and R2 of the mean curve."""
    models = list(dict.fromkeys(one.model for one in scores))
    values, rmse = over_seeds(scores, "r2"), over_seeds(scores, "rmse")
    rows = []
    for split, crop in dict.fromkeys((one.split, one.parcels) for one in scores):
        n = next(one.n for one in scores if (one.parcels, one.at) == (crop, SEASON))
        row = [crop, str(n_parcels[crop]), f"{n:,}"]
        for table, at in ((values, SEASON), (rmse, SEASON), (values, CURVE)):
            row += [pages.figure(table.get((split, crop, at, one)), is_r2=table is values) for one in models]
        rows.append(row)
    head = ["crop", "parcels", "views", *(f"{what} {one}" for what in ("R2", "RMSE", "R2 of curve") for one in models)]
    return pages.markdown([head, *rows], n_left=1)
