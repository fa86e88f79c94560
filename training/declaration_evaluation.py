"""What `parcelwatch evaluate declarations` prints: wrong declarations found by a classifier that learns this season's own, by date."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from time import process_time
from typing import Any, Final

import numpy as np
import typer

from monitor.alerts.settings import RuleSettings
from terminal.output import console, error_console, progress, table
from training.config import ModelConfig, TrainingSection
from training.cross_validation import train_fold
from training.declarations import (
    Course,
    MismatchCounts,
    at,
    course,
    end_of,
    known_by,
    labelled_only,
    summary,
    swapped,
    verdicts,
)
from training.errors import EvaluationError
from training.folds import N_FOLDS, blocked_folds
from training.labelled import NO_LABEL, LabelledParcels
from training.sources import LABELLED, LabelledSource, class_of

MODEL: Final = ModelConfig(pixel_widths=(32,), embedding=32, attention=64, decoder=(32,))
"""A quarter of the product's widths, for time: five folds at five dates are 25 trainings a seed on two cores."""
TEMPORAL_DROPOUT: Final = 0.6
"""Of all modalities, for time: a training reads half of what it does with the product's 0.4 and 0.2, and scored the same (docs/LOG.md)."""
EVERY_MONTH: Final = ((5, 1), (6, 1), (7, 1), (8, 1))
"""Dates of the year at which the season is asked, and its end."""
FIGURES: Final = ("judged", "reds", "recall", "recall_judged", "precision", "false_reds", "false_reds_per_1000")


@dataclass(frozen=True)
class Asked:
    """What an evaluation is asked for."""

    swap: float
    """Share of the declarations that are swapped."""
    wrong_labels: float
    """Share of wrong ones that the training allows for."""
    on: tuple[date, ...]
    epochs: int
    rules: RuleSettings

    def training(self, seed: int, wrong_labels: float) -> TrainingSection:
        """Return how a fold's model is trained: a held-out fifth of the other folds' blocks gives its temperature alone."""
        return TrainingSection(
            epochs=self.epochs, validate_every=self.epochs, refit=False, seed=seed, wrong_labels=wrong_labels
        )


def report(
    folder: Path, train_on: Path | None, kind: str, asked: Asked, seeds: Sequence[int], *, as_json: bool
) -> None:
    """Evaluate the declarations of a folder, and print the figures. Raises EvaluationError."""
    of_season, *of_past = (source(kind, one) for one in (folder, train_on) if one is not None)
    data = observed(opened(of_season), folder)
    asked = replace(asked, on=dates(data, asked.on))  # of a wrong one the past season is not read
    past = observed(opened(of_past[0]), train_on or folder) if of_past else None
    with progress("evaluating", error_console) as steps:
        result = evaluate(data, past, asked, seeds, steps.to)
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
        return
    _print(result)


def source(kind: str, folder: Path) -> LabelledSource:
    """Return a folder as a source; raises UserError where it is not there, before anything is read."""
    made: LabelledSource = class_of(kind, LABELLED)(kind=kind, path=folder)
    made.require()
    return made


def opened(of: LabelledSource) -> LabelledParcels:
    """Return the labelled parcels of a source, without those that are neither trained nor scored on."""
    found = of.open()
    modalities = tuple(replace(one, temporal_dropout=TEMPORAL_DROPOUT) for one in found.modalities)
    return replace(labelled_only(found), modalities=modalities)


def observed(data: LabelledParcels, folder: Path) -> LabelledParcels:
    """Return the data; EvaluationError where fewer than the folds' number of blocks hold labelled parcels."""
    blocks = len(set(data.block[data.is_labelled].tolist()))
    if blocks < N_FOLDS:
        raise EvaluationError(
            f"{folder}: its labelled parcels lie in {blocks} blocks, {N_FOLDS} are needed to part them"
        )
    return data


def dates(data: LabelledParcels, given: Sequence[date]) -> tuple[date, ...]:
    """Return the dates that are asked for, ascending: those given, or the first of May to August and the season's end.

    Raises:
        EvaluationError: one that is not in the season.
    """
    assert data.starts_on is not None  # recorded folders have dates
    ends_on = data.starts_on + timedelta(days=int(data.scored_on[-1]) - 1)
    chosen = set(given)
    if not given:
        chosen = {date(ends_on.year, *one) for one in EVERY_MONTH} | {ends_on}
        chosen = {one for one in chosen if data.starts_on < one <= ends_on}
    if outside := sorted(one for one in chosen if not data.starts_on <= one <= ends_on):
        raise EvaluationError(f"--on {outside[0]}: the season lasts from {data.starts_on} to {ends_on}")
    return tuple(sorted(chosen))


def evaluate(
    data: LabelledParcels,
    past: LabelledParcels | None,
    asked: Asked,
    seeds: Sequence[int],
    report: Callable[[float, float, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Return the figures by date: of each seed, and mean and standard deviation over the seeds.

    Raises:
        EvaluationError: the folders were not observed alike.
        RunConfigError: a fold has too little to train on.
    """
    began, n_steps = process_time(), len(seeds) * len(asked.on) + 1
    report(0, n_steps, "training on the truth to compare with")
    classes, reference = _reference(data, past, asked, seeds[0])
    scored = np.flatnonzero(data.is_labelled)
    of_seeds = []
    for nr, seed in enumerate(seeds):
        labels = swapped(data.labels, len(data.classes), asked.swap, seed)
        is_swapped = (labels != data.labels)[scored]
        names = [None if one == NO_LABEL else data.classes[one] for one in labels]
        declared = replace(data, labels=labels)
        by_truth = verdicts(reference, classes, names, data.starts_on or date.min, asked.rules)
        by_date = []
        for step, day in enumerate(asked.on):
            report(1 + nr * len(asked.on) + step, n_steps, f"seed {seed}, as known on {day}")
            own = cross_fitted(known_by(declared, day), asked.training(seed, asked.wrong_labels))
            found = verdicts(own, data.classes, names, data.starts_on or date.min, asked.rules)
            counts = {
                key: MismatchCounts.of(at(one, verdict, end_of(data, day), len(data))[scored], is_swapped).figures()
                for key, one, verdict in (("cross_fitted", own, found), ("past_season", reference, by_truth))
            }
            by_date.append({"date": day.isoformat(), **counts})
        of_seeds.append({"seed": seed, "by_date": by_date})
    return {
        "source": data.name,
        "past_season": "the truth of the other blocks, whole season" if past is None else past.name,
        "parcels": len(scored),
        "observed": int(data.observed_by(np.inf)[scored].sum()),
        "classes": list(data.classes),
        "folds": N_FOLDS,
        "swap": asked.swap,
        "expect_wrong": asked.wrong_labels,
        "epochs": asked.epochs,
        "thresholds": {name: value for name, value in asdict(asked.rules).items() if name.startswith("mismatch")},
        "seeds": list(seeds),
        "by_date": _summarised(asked.on, of_seeds),
        "of_seeds": of_seeds,
        "cpu_s_per_seed": round((process_time() - began) / len(seeds), 1),
    }


def cross_fitted(data: LabelledParcels, training: TrainingSection) -> Course:
    """Return the course of each labelled parcel under the model of the folds that it is not in; folds are dealt anew.

    Raises:
        RunConfigError: a fold has too little to train on.
    """
    names = [None if one == NO_LABEL else data.classes[one] for one in data.labels]
    dealt = replace(data, fold=np.array(blocked_folds(data.block.astype(str).tolist(), names), np.int64) + 1)
    parts = []
    for fold in training.folds:
        members = np.flatnonzero(dealt.is_labelled & (dealt.fold == fold))
        parts.append(course(train_fold(dealt, MODEL, training, fold), dealt, members))
    return Course.joined(parts)


def _reference(
    data: LabelledParcels, past: LabelledParcels | None, asked: Asked, seed: int
) -> tuple[tuple[str, ...], Course]:
    """Return the classes and the courses of models that are taught the truth: a past season's, or the other blocks'."""
    training = asked.training(seed, 0.0)
    if past is None:
        return data.classes, cross_fitted(data, training)
    _check_alike(data, past)
    model = train_fold(past, MODEL, training, 0)  # no parcel is in fold 0: all are learnt from
    return past.classes, course(model, data, np.flatnonzero(data.is_labelled))


def _check_alike(data: LabelledParcels, past: LabelledParcels) -> None:
    """Raise EvaluationError unless the data have all that a model of the past season reads, and two crops that it tells apart."""
    known = {one.name: one.channels for one in data.modalities}
    for one in past.modalities:
        if known.get(one.name) != one.channels:
            raise EvaluationError(
                f"--train-on {past.name} has {one.name} with {', '.join(one.channels)}, {data.name} has "
                f"{', '.join(known.get(one.name, ('none',)))}; folders observed alike are needed"
            )
    here, before = ({one.classes[nr] for nr in one.labels[one.is_labelled]} for one in (data, past))
    if len(here & before) < 2:
        raise EvaluationError(
            f"--train-on {past.name} has parcels of {', '.join(sorted(before))}, {data.name} of "
            f"{', '.join(sorted(here))}; two crops in common are needed"
        )


def _summarised(on: Sequence[date], of_seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_date = []
    for nr, day in enumerate(on):
        of_day = [one["by_date"][nr] for one in of_seeds]
        by_date.append(
            {"date": day.isoformat()}
            | {key: summary([one[key] for one in of_day]) for key in ("cross_fitted", "past_season")}
        )
    return by_date


def _print(result: Mapping[str, Any]) -> None:
    """Print mean and standard deviation by date."""
    rows = []
    for of_day in result["by_date"]:
        for key in ("cross_fitted", "past_season"):
            cells = (_cell(of_day[key][name]) for name in FIGURES)
            rows.append((of_day["date"], {"cross_fitted": "this season's", "past_season": "truth"}[key], *cells))
    title = f"{result['source']}: crop_mismatch, {result['swap']:.0%} of {result['parcels']} declarations swapped"
    console.print(table(("as known on", "taught by", *FIGURES), rows, title=title))
    console.print(
        f"truth: {result['past_season']}; {result['cpu_s_per_seed']} s of processor time a seed", markup=False
    )


def _cell(figure: Mapping[str, float | None]) -> str:
    if figure["mean"] is None:
        return "-"
    spread = "" if figure["sd"] is None else f" ± {figure['sd']:.2f}"
    return f"{figure['mean']:.2f}{spread}"
