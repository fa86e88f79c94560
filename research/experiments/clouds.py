"""Figure 7 of Garnot, Landrieu and Chehata 2022: score at the season's end against the share of optical dates kept.

    kept(t) = rank of u_t among the parcel's optical dates < round(ratio n)        u_t uniform, the same for every ratio

Dates are taken away at test time only; models are those of the fusion table. A draw takes dates away from each parcel on
its own, and what a smaller ratio keeps a larger one keeps too, so that a curve does not wobble by the draw.
Units:  ratio 1 (all dates) to 0 (none).
Errors: ExperimentError for data without an optical modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from research.experiments import plots, tables
from research.experiments.calibration import measured
from research.experiments.grid import Grid, Run
from research.experiments.schemes import Enhancement, ExperimentError, Scheme, rows
from research.experiments.tables import Measurement
from training.labelled import LabelledParcels

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
SHOWN = (1.0, 0.5, 0.3, 0.1, 0.0)
"""Ratios of the terminal's table."""
OPTICAL = "s2"


def measure(
    grid: Grid,
    schemes: Sequence[Scheme],
    enhancements: Sequence[Enhancement],
    seeds: Sequence[int],
    folds: Sequence[int],
    *,
    draws: int = 5,
    ratios: Sequence[float] = RATIOS,
) -> list[Measurement]:
    """Return the scores of every row, ratio and draw at the end of the season.

    Raises:
        ExperimentError: the data have no optical modality.
    """
    if OPTICAL not in grid.data.observations:
        raise ExperimentError(f"{grid.data.name} has no modality {OPTICAL} to take dates from")
    asked = rows(schemes, enhancements)
    found = []
    for nr, seed in enumerate(seeds):
        for row_nr, (scheme, enhancement) in enumerate(asked):
            grid.report(f"{scheme.name} {enhancement.name} seed {seed}", (nr + row_nr / len(asked)) / len(seeds))
            for draw in range(draws):
                pooled = [_thinned(grid, Run(scheme, enhancement, seed, fold), draw, ratios) for fold in folds]
                truth, probabilities = (
                    np.concatenate(one, axis=axis) for one, axis in zip(zip(*pooled, strict=True), (0, 1), strict=True)
                )
                found += [
                    Measurement(scheme.name, enhancement.name, seed, draw, ratio, f"{ratio:.1f}", metric, value)
                    for ratio, own in zip(ratios, probabilities, strict=True)
                    for metric, value in measured(truth, own).items()
                ]
    return found


def without_dates(
    data: LabelledParcels, modality: str, ratio: float, seed: int, of: NDArray[np.bool_] | None = None
) -> LabelledParcels:
    """Return the same parcels with the share `ratio` of each one's dates of a modality, drawn at random.

    Args:
        of: (P,) the parcels that are asked for; the others lose the modality, so that a season in mapped files stays there.
    """
    one = data.observations[modality]
    u = np.random.default_rng(seed).random(len(one.parcel))
    order = np.lexsort((u, one.parcel))
    start = np.searchsorted(one.parcel, one.parcel)  # of the parcel's first observation
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - start  # parcels are ascending: those of a place in the order are the same
    kept = rank < np.round(ratio * np.bincount(one.parcel, minlength=len(data))[one.parcel])
    kept &= True if of is None else of[one.parcel]
    return replace(data, observations={**data.observations, modality: one.take(kept)})


def write(folder: Path, measurements: Sequence[Measurement], title: str) -> str:
    """Write clouds.csv, clouds.md and clouds.png; return the Markdown."""
    tables.write_csv(folder / "clouds.csv", measurements)
    parts = [f"# Score against the share of optical dates kept: {title}", tables.NOTE]
    parts += [tables.markdown(measurements, metric) for metric in ("macro-F1", "mIoU", "accuracy")]
    text = "\n\n".join(parts)
    (folder / "clouds.md").write_text(text, encoding="utf-8")
    plots.lines(
        folder / "clouds.png",
        measurements,
        ("macro-F1", "mIoU"),
        x_label="share of optical dates kept",
        is_falling=True,
    )
    return text


def _thinned(grid: Grid, run: Run, draw: int, ratios: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return truth (P_test,) and probabilities (ratios, P_test, K) of one fold; a scheme without optical dates is asked once."""
    end, test = grid.data.scored_on[-1:], grid.masks(run)[1]
    asked = ratios if OPTICAL in run.scheme.modalities else ratios[:1]

    def said() -> NDArray[np.float64]:
        return np.concatenate(
            [grid.predict(run, without_dates(grid.data, OPTICAL, one, draw, test), end) for one in asked]
        )

    name = f"clouds-{run.key}-{draw}-{'-'.join(f'{100 * one:.0f}' for one in asked)}"
    found = grid.kept(name, said)
    return grid.data.labels[test], np.tile(found, (len(ratios) // len(asked), 1, 1))
