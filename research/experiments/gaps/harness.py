"""The benchmark of gap filling: every method fitted on the same parcels, asked the same hidden views, scored the same way.

    RMSE, bias (predicted less observed), share of observed values inside mean +- 1.96 sd, median absolute error

Queries are pooled over folds before they are scored. Every method answers every query.
Shapes: Q queries of a gap, the same for all methods and modes.
Units:  NDVI dimensionless; series per second: parcels' daily years filled by a second of the processor.
Errors: NothingToAsk where there is no view to hide; ValueError for an answer that is not finite.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ndvi.inputs import Bools, Floats, Ints
from research.experiments.gaps.filler import MODES, Filler, Mode
from research.experiments.gaps.hiding import GAPS_DAYS, hide, known_views
from research.experiments.gaps.series import GapSeries, is_grass

Z_95 = 1.96
TIMED_PARCELS = 20
"""Parcels whose daily year is filled to time a method (chosen because that takes seconds and no longer)."""
DAYS_OF_YEAR = 365

Progress = Callable[[str], None]


class NothingToAsk(ValueError):
    """No scored parcel has a clear view to hide; the caller gives another season."""


@dataclass(frozen=True)
class Split:
    """Parcels to learn from, and others to be scored on, of the same season or of another."""

    training: GapSeries
    is_training: Bools
    tested: GapSeries
    is_tested: Bools


@dataclass(frozen=True)
class Asked:
    """The queries of all splits, the same rows for every gap, mode and method."""

    parcel: Ints
    day: Ints
    ndvi: Floats
    group: NDArray[np.str_]
    truth: Floats | None
    """True NDVI on the day, where known."""


@dataclass(frozen=True)
class Score:
    """How well the hidden values were known."""

    n: int
    rmse: float
    bias: float
    coverage: float
    median_abs_error: float
    rmse_by_group: Mapping[str, float]
    """By crop group, and "grass" and "arable" where there are both."""


@dataclass(frozen=True)
class MethodResult:
    """One method in one mode."""

    method: str
    mode: Mode
    scores: Mapping[int, Score]
    """By gap in days, against the hidden observed values."""
    true_scores: Mapping[int, Score]
    """The same against the truth; empty where it is not known."""
    series_per_s: float
    answers: Mapping[int, tuple[Floats, Floats]]
    """Mean and sd (Q,) by gap, in the order of the queries asked."""


def folds(series: GapSeries, chosen: Sequence[int] = range(5)) -> list[Split]:
    """Return splits by the blocked folds of one season."""
    return [
        Split(series, series.is_trained & (series.fold != fold), series, series.is_scored & (series.fold == fold))
        for fold in chosen
    ]


def transfer(training: GapSeries, tested: GapSeries) -> list[Split]:
    """Return one split: all of one season to learn from, all of another to be scored on."""
    return [Split(training, training.is_trained, tested, tested.is_scored)]


def run(
    splits: Sequence[Split],
    methods: Sequence[Callable[[], Filler]],
    *,
    seed: int = 0,
    sample: int | None = None,
    gaps: Sequence[int] = GAPS_DAYS,
    progress: Progress | None = None,
) -> tuple[Asked, list[MethodResult]]:
    """Return the results of methods, in order, retrospective and causal.

    Args:
        splits: parcels to learn from and to score on.
        methods: make a new, unfitted filler.
        seed: of the fillers and of the sample.
        sample: ask so many hidden views in all, drawn at random and the same for all; None: all there are.
        gaps: in days.
        progress: called with what is done, and how long it took.

    Raises:
        NothingToAsk: no scored parcel has a clear view.
        ValueError: a method's answer is not finite.
    """
    rows = list(_asked_rows(splits, sample, seed))
    asked = _pooled(splits, rows)
    results = []
    for make in methods:
        results += _run_method(make, splits, rows, asked, seed, gaps, progress or (lambda _: None))
    return asked, results


def score(asked: Asked, observed: Floats, mean: Floats, sd: Floats) -> Score:
    """Return the scores of answers (Q,) against observed or true values (Q,)."""
    error = mean - observed
    grass = is_grass(asked.group)
    parts = {name: asked.group == name for name in np.unique(asked.group).tolist()}
    if grass.any() and not grass.all():
        parts |= {"grass": grass, "arable": ~grass}
    return Score(
        n=len(error),
        rmse=_rms(error),
        bias=float(error.mean()),
        coverage=float((np.abs(error) <= Z_95 * sd).mean()),
        median_abs_error=float(np.median(np.abs(error))),
        rmse_by_group={name: _rms(error[part]) for name, part in parts.items()},
    )


def _run_method(
    make: Callable[[], Filler],
    splits: Sequence[Split],
    rows: Sequence[Ints],
    asked: Asked,
    seed: int,
    gaps: Sequence[int],
    progress: Progress,
) -> list[MethodResult]:
    answers: dict[tuple[Mode, int], list[tuple[Floats, Floats]]] = {(mode, gap): [] for mode in MODES for gap in gaps}
    speed: dict[Mode, float] = {}
    for nr, (split, own) in enumerate(zip(splits, rows, strict=True), start=1):
        begun = time.process_time()
        filler = make()
        filler.fit(*split.training.training(split.is_training), seed)
        fitted = time.process_time()
        for mode, gap in answers:
            hidden = hide(split.tested.clear, gap, mode, own)
            mean, sd = filler.fill(split.tested.sar, hidden.views, hidden.parcel, hidden.day, mode)
            if not (np.isfinite(mean).all() and np.isfinite(sd).all()):
                raise ValueError(f"{filler.name}, {mode}, gap {gap}: an answer is not finite; every query needs one")
            answers[mode, gap].append((mean, sd))
        progress(
            f"{filler.name} {nr}/{len(splits)}: fit {fitted - begun:.0f} s, fill {time.process_time() - fitted:.0f} s"
        )
        speed = speed or {mode: _series_per_s(filler, split, mode) for mode in MODES}
    results = []
    for mode in MODES:
        pooled = {
            gap: (
                np.concatenate([m for m, _ in answers[mode, gap]]),
                np.concatenate([s for _, s in answers[mode, gap]]),
            )
            for gap in gaps
        }
        true = {} if asked.truth is None else {gap: score(asked, asked.truth, *one) for gap, one in pooled.items()}
        scores = {gap: score(asked, asked.ndvi, *one) for gap, one in pooled.items()}
        results.append(MethodResult(filler.name, mode, scores, true, speed[mode], pooled))
    return results


def _asked_rows(splits: Sequence[Split], sample: int | None, seed: int) -> Iterator[Ints]:
    """Yield the rows of clear views asked for in each split."""
    every = [np.flatnonzero(one.is_tested[one.tested.clear.parcel]) for one in splits]
    n = sum(map(len, every))
    if not n:
        raise ValueError(
            "no scored parcel has a clear view: nothing can be hidden; give a season with Sentinel-2 views"
        )
    chosen = np.ones(n, dtype=bool)
    if sample is not None and sample < n:
        chosen[np.random.default_rng(seed).permutation(n)[sample:]] = False
    begin = 0
    for rows in every:
        yield rows[chosen[begin : begin + len(rows)]]
        begin += len(rows)


def _pooled(splits: Sequence[Split], rows: Sequence[Ints]) -> Asked:
    parts = []
    for split, own in zip(splits, rows, strict=True):
        clear, truth = split.tested.clear, split.tested.truth
        parcel, day = clear.parcel[own], np.floor(clear.day[own]).astype(np.int64)
        true = np.full(len(day), np.nan) if truth is None else truth[parcel, day]
        parts.append((parcel, day, clear.ndvi[own], split.tested.group[parcel], true))
    parcel, day, ndvi, group, true = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Asked(parcel, day, ndvi, group, None if np.isnan(true).any() else true)


def _series_per_s(filler: Filler, split: Split, mode: Mode) -> float:
    """Return daily years of parcels that a method fills in a second of the processor, all views known (causal: as of each day)."""
    clear = split.tested.clear
    seen = np.unique(clear.parcel[split.is_tested[clear.parcel]])[:TIMED_PARCELS]
    parcel, day = np.repeat(seen, DAYS_OF_YEAR), np.tile(np.arange(DAYS_OF_YEAR), len(seen))
    views = known_views(clear, parcel, day, mode)
    sar = split.tested.sar.rows(np.isin(split.tested.sar.parcel, seen))
    begun = time.process_time()
    filler.fill(sar, views, parcel, day, mode)
    return len(seen) / max(time.process_time() - begun, 1e-9)


def _rms(error: Floats) -> float:
    return float(np.sqrt(np.mean(error**2)))
