"""Table 1 of Garnot, Landrieu and Chehata 2022: fusion schemes x training enhancements, beside single modalities and a forest.

    late, mid, early, decision x (none, auxiliary, temporal dropout, both)        scores at each scored date of the season

Enhancements as published: an auxiliary loss of 0.5 a modality where each has a sequence of its own (late, decision), dates
left out at random in training (0.4 of S2, 0.2 of each S1 direction). Seasons are cut at random days in every row: the
product answers all season long.
Units:  scores 0..1; parameters of inference, without what only training uses.
Errors: those of research.experiments.grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from research.experiments import plots, tables
from research.experiments.calibration import MEASURES, measured
from research.experiments.grid import Grid, Run, n_parameters
from research.experiments.schemes import FOREST, Enhancement, Scheme, rows
from research.experiments.tables import Measurement

NO_ENHANCEMENT = Enhancement("", False, False)
"""Of the forest."""


def measure(
    grid: Grid,
    schemes: Sequence[Scheme],
    enhancements: Sequence[Enhancement],
    seeds: Sequence[int],
    folds: Sequence[int],
    *,
    with_forest: bool = True,
) -> list[Measurement]:
    """Return the scores of every row at every scored date, and the parameters of every scheme."""
    days = grid.data.scored_on, grid.data.day_names
    found = scores_of_rows(grid, schemes, enhancements, seeds, folds, *days, with_forest=with_forest)
    for scheme, enhancement in rows(schemes, enhancements):
        count = n_parameters(grid.model(Run(scheme, enhancement, seeds[0], folds[0])).network)
        found.append(Measurement(scheme.name, enhancement.name, seeds[0], 0, 0.0, "inference", "parameters", count))
    return found


def scores_of_rows(
    grid: Grid,
    schemes: Sequence[Scheme],
    enhancements: Sequence[Enhancement],
    seeds: Sequence[int],
    folds: Sequence[int],
    days: Sequence[float],
    names: Sequence[str],
    *,
    with_forest: bool,
) -> list[Measurement]:
    """Return the scores of every row and seed at the end of each day."""
    asked = rows(schemes, enhancements)
    asked += [(Scheme(FOREST, tuple(one.name for one in grid.data.modalities)), NO_ENHANCEMENT)] if with_forest else []
    found = []
    for nr, seed in enumerate(seeds):
        for row_nr, (scheme, enhancement) in enumerate(asked):
            grid.report(f"{scheme.name} {enhancement.name} seed {seed}", (nr + row_nr / len(asked)) / len(seeds))
            found += scores(grid, scheme, enhancement, seed, folds, days, names)
    return found


def scores(
    grid: Grid,
    scheme: Scheme,
    enhancement: Enhancement,
    seed: int,
    folds: Sequence[int],
    days: Sequence[float],
    names: Sequence[str],
) -> list[Measurement]:
    """Return the scores of one row and seed at the end of each day, folds pooled."""
    truth, probabilities = grid.pooled(scheme, enhancement, seed, folds, days)
    return [
        Measurement(scheme.name, enhancement.name, seed, 0, day, name, metric, value)
        for day, name, own in zip(days, names, probabilities, strict=True)
        for metric, value in measured(truth, own).items()
    ]


def write(folder: Path, measurements: Sequence[Measurement], title: str, days: Sequence[str]) -> str:
    """Write fusion.csv, fusion.md and fusion.png; return the Markdown.

    Args:
        days: names of the scored days.
    """
    end = days[-1]
    tables.write_csv(folder / "fusion.csv", measurements)
    last = [one for one in measurements if one.at == end]
    crossed = [one._replace(enhancement="", at=one.enhancement or "as it is") for one in last]
    parts = [f"# Fusion schemes and enhancements: {title}", tables.NOTE]
    parts += [tables.markdown(crossed, one, title=f"{one}, {end}") for one in ("mIoU", "accuracy", "macro-F1")]
    parts.append(tables.markdown(measurements, "parameters", digits=0, best=None))
    parts += [tables.markdown(measurements, metric, best=best) for metric, best in MEASURES.items()]
    reference = next(((one.scheme, one.enhancement) for one in measurements if one.scheme == "S2"), None)
    parts += [tables.differences(measurements, "macro-F1", reference)] if reference else []
    text = "\n\n".join(parts)
    (folder / "fusion.md").write_text(text, encoding="utf-8")
    plots.dots(folder / "fusion.png", measurements, [*(("macro-F1", one) for one in days), ("mIoU", end)])
    return text
