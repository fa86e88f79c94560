"""Score against the date of the season, which the paper does not have: what was known when, and how honestly.

Every fifteen days and on the scored dates, posteriors as known at the end of the day; a forest of its own is trained for each
day, on what was observed by then, while a network answers all season long.
Units:  scores 0..1, days since the season's start.
Errors: those of research.experiments.grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.experiments import plots, tables
from research.experiments.calibration import MEASURES, pool
from research.experiments.fusion import scores_of_rows
from research.experiments.grid import Grid
from research.experiments.schemes import Enhancement, Scheme, rows
from research.experiments.tables import Measurement, label
from training.metrics import reliability

STEP_D = 15
"""Chosen because two satellites bring three clear views in it; finer steps cost forests and show noise."""


def days(grid: Grid) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the days of the curve and their names; scored dates keep theirs."""
    named = dict(zip(grid.data.scored_on, grid.data.day_names, strict=True))
    every = sorted({*named, *np.arange(STEP_D, grid.data.scored_on[-1], STEP_D, dtype=float).tolist()})
    return tuple(every), tuple(named.get(day, f"day {day:.0f}") for day in every)


def measure(
    grid: Grid,
    schemes: Sequence[Scheme],
    enhancements: Sequence[Enhancement],
    seeds: Sequence[int],
    folds: Sequence[int],
    *,
    with_forest: bool = True,
) -> list[Measurement]:
    """Return the scores of every row on every day."""
    return scores_of_rows(grid, schemes, enhancements, seeds, folds, *days(grid), with_forest=with_forest)


def write(
    folder: Path,
    measurements: Sequence[Measurement],
    grid: Grid,
    schemes: Sequence[Scheme],
    enhancements: Sequence[Enhancement],
    seeds: Sequence[int],
    folds: Sequence[int],
    title: str,
) -> str:
    """Write in-season.csv, in-season.md (the scored dates), in-season.png and reliability.png; return the Markdown."""
    tables.write_csv(folder / "in-season.csv", measurements)
    scored = [one for one in measurements if one.at in grid.data.day_names]
    parts = [f"# Score against the date of the season: {title}", tables.NOTE]
    parts += [tables.markdown(scored, metric, best=best) for metric, best in MEASURES.items()]
    text = "\n\n".join(parts)
    (folder / "in-season.md").write_text(text, encoding="utf-8")
    marks = dict(zip(grid.data.scored_on, grid.data.day_names, strict=True))
    plots.lines(
        folder / "in-season.png",
        measurements,
        ("macro-F1", "accuracy", "ECE"),
        x_label="day of the season",
        marks=marks,
    )
    bins = {}
    for scheme, enhancement in rows(schemes, enhancements):
        known = [grid.pooled(scheme, enhancement, seed, folds, grid.data.scored_on) for seed in seeds]
        own = [pool(truth, one) for truth, probabilities in known for one in probabilities]
        bins[label((scheme.name, enhancement.name))] = reliability(own)
    plots.reliability(folder / "reliability.png", bins)
    return text
