"""The scores of a cross-validation, at each scored day and over all of them.

    mIoU = mean over classes of TP / (TP + FP + FN), from the confusion summed over the folds (rest: training.metrics)

The calibration error stands beside the one that a perfectly calibrated model would show on so few parcels by chance.
Source: Garnot, Landrieu and Chehata 2022 (summed confusion).
Errors: ValueError where there is nothing to score.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.classifier.calibration import error_by_chance, expected_calibration_error
from models.classifier.scoring import iou
from training.cross_validation import CrossValidation
from training.metrics import ClassScores, plain, score_classes


@dataclass(frozen=True)
class DayScores:
    """How well the crops were known at the end of a day."""

    day: float
    name: str
    miou: float
    iou: Mapping[str, float]
    """NaN for a class that neither truth nor answers hold."""
    ece_by_chance: float
    """Mean calibration error of a perfectly calibrated model on so many parcels."""
    ece_by_chance_95: float
    """Its 95th percentile: a larger error is not chance."""
    crops: ClassScores


@dataclass(frozen=True)
class RunScores:
    """The scores of a run."""

    days: tuple[DayScores, ...]
    ece: float
    """Of the answers of all scored days pooled."""
    ece_by_chance: float
    ece_by_chance_95: float


def score(known: CrossValidation) -> RunScores:
    """Return the scores of a cross-validation."""
    days = []
    for nr, (day, name) in enumerate(zip(known.days, known.day_names, strict=True)):
        crops = score_classes(known.pooled(nr))
        each, chance = iou(np.array(crops.confusion)), error_by_chance(known.probabilities[nr])
        by_class = dict(zip(known.classes, each.tolist(), strict=True))
        days.append(DayScores(day, name, float(np.nanmean(each)), by_class, *chance, crops))
    together = known.probabilities.reshape(-1, len(known.classes))
    ece = expected_calibration_error(together, np.tile(known.truth, len(known.days)))
    return RunScores(tuple(days), ece, *error_by_chance(together))


def to_json(scores: RunScores) -> str:
    """Return the scores as JSON; what is not finite is null."""
    return json.dumps(plain(scores), indent=1)


def markdown(title: str, scores: RunScores) -> str:
    """Return the scores as Markdown tables: by day, by class at each day, and the confusion on the last day."""
    names = [one.name for one in scores.days]
    chance = [f"{one.ece_by_chance:.3f} ({one.ece_by_chance_95:.3f})" for one in scores.days]
    rows = [
        ["mIoU", *(f"{one.miou:.3f}" for one in scores.days)],
        ["macro-F1", *(f"{one.crops.macro_f1:.3f}" for one in scores.days)],
        ["macro-F1, observed parcels", *(f"{one.crops.macro_f1_observed:.3f}" for one in scores.days)],
        ["overall accuracy", *(f"{one.crops.accuracy:.3f}" for one in scores.days)],
        ["ECE", *(f"{one.crops.ece:.3f}" for one in scores.days)],
        ["ECE by chance: mean (95 %)", *chance],
        ["parcels observed", *(f"{one.crops.n_observed} of {one.crops.n}" for one in scores.days)],
    ]
    classes = [[name, *(_number(one.iou[name]) for one in scores.days)] for name in scores.days[-1].iou]
    by_chance = f"{scores.ece_by_chance:.3f} ({scores.ece_by_chance_95:.3f})"
    pooled = f"ECE over all days {scores.ece:.3f}, by chance {by_chance}."
    tables = [_table(["as known on", *names], rows), pooled, _table(["IoU", *names], classes), *_confusion(scores)]
    return "\n\n".join([f"# {title}", *tables]) + "\n"


def _confusion(scores: RunScores) -> Iterator[str]:
    """Yield a heading and a table, a row for each true class, of the parcels answered as each class on the last day."""
    last = scores.days[-1]
    sums = [sum(row) for row in last.crops.confusion]
    rows = [
        [name, *map(str, row), str(n)]
        for name, row, n in zip(last.crops.classes, last.crops.confusion, sums, strict=True)
    ]
    yield f"Parcels by true crop (rows) and answer (columns), as known on {last.name}:"
    yield _table(["true crop", *last.crops.classes, "all"], rows)


def confusion_csv(scores: RunScores) -> str:
    """Parcels by day, true class and predicted class, a row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["day", "as_known_on", "true", "predicted", "parcels"])
    writer.writerows(_cells(scores))
    return text.getvalue()


def _cells(scores: RunScores) -> Iterator[tuple[float, str, str, str, int]]:
    for one in scores.days:
        for true, row in zip(one.crops.classes, one.crops.confusion, strict=True):
            for predicted, count in zip(one.crops.classes, row, strict=True):
                yield one.day, one.name, true, predicted, count


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
