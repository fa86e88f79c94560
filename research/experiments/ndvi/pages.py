"""The tables of the experiments' pages: Markdown for a person, one long CSV for a program.

An R2 below 0.7 is in italics. No row is called best: the table of differences says which of them blocks of parcels support.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean, median

from research.experiments.ndvi.runs import Answer, Runs
from research.experiments.ndvi.scores import AIM_R2, Difference, Score, over_seeds
from research.experiments.ndvi.sources import ScoredSeries

NOTE = (
    "R2 is about the mean of the observed values scored, RMSE a true one. *Italics*: R2 below 0.7. Figures are means over seeds, with "
    "their standard deviation where there are several. Nothing optical of the scored series is shown to the model."
)
Table = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Cost:
    """What a model took to train."""

    n_parameters: int
    n_updates: int
    seconds: float
    """Mean processor seconds of a training."""
    n_runs: int


def costs(runs: Runs, answers: Iterable[tuple[str, Answer]]) -> dict[str, Cost]:
    """Return the cost of each model over all its trainings."""
    own: dict[str, list[Answer]] = {}
    for model, answer in answers:
        own.setdefault(model, []).append(answer)
    return {
        model: Cost(runs.n_parameters(model), given[0].n_updates, fmean(one.seconds for one in given), len(given))
        for model, given in own.items()
    }


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """One row a score."""
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(Score._fields)
        writer.writerows(scores)


def season_table(scores: Sequence[Score], season: str, hazy: Mapping[int, float], heading: str = "The season") -> str:
    """Return a row for each split, kind of parcels and model: the season's figures, and how the dates do."""
    figures = {name: over_seeds(scores, name) for name in ("r2", "rmse", "bias")}
    rows = []
    for split, parcels, at, model in (key for key in figures["r2"] if key[2] == season):
        own = [one for one in scores if (one.split, one.parcels, one.model) == (split, parcels, model)]
        n = next(one.n for one in own if one.at == season)
        cells = [figure(table[split, parcels, at, model], is_r2=name == "r2") for name, table in figures.items()]
        rows.append([parcels, split, model, f"{n:,}", *cells, *_of_dates(own, season, hazy)])
    head = [
        "parcels",
        "split",
        "model",
        "views",
        "R2",
        "RMSE",
        "bias",
        "median R2 of dates",
        "less bias",
        "dates below 0.7",
        "hazy ones left out",
    ]
    return f"## {heading}\n\n" + markdown([head, *rows], n_left=3)


def _of_dates(own: Sequence[Score], season: str, hazy: Mapping[int, float]) -> list[str]:
    """Return medians over dates of R2 and of R2 less bias, dates below the aim, and those of them that are not hazy."""
    r2, shape = (_by_day(own, season, name) for name in ("r2", "r2_shape"))
    if not r2:
        return ["", "", "", ""]
    clear = {day: value for day, value in r2.items() if day not in hazy}
    low = [f"{sum(value < AIM_R2 for value in one.values())} of {len(one)}" for one in (r2, clear)]
    return [f"{median(r2.values()):.3f}", f"{median(shape.values()):.3f}", *low]


def _by_day(own: Sequence[Score], season: str, name: str) -> dict[int, float]:
    """Return a figure of each date, mean over seeds; `own` is of one split, model and kind."""
    values: dict[int, list[float]] = {}
    for one in own:
        if one.at != season:
            values.setdefault(int(one.day), []).append(getattr(one, name))
    return {day: fmean(given) for day, given in values.items()}


def cost_table(cost: Mapping[str, Cost]) -> str:
    """Return what each model took: parameters, updates, processor seconds of a training."""
    rows = [
        [name, f"{one.n_parameters:,}", f"{one.n_updates:,}", f"{one.seconds:,.0f}", str(one.n_runs)]
        for name, one in cost.items()
    ]
    return markdown(
        [["model", "parameters", "updates", "processor seconds of a training", "trainings"], *rows], n_left=1
    )


def difference_table(found: Mapping[tuple[str, str, str], Difference], first: str) -> str:
    """Return R2 of the season, the first model's less each other's, with intervals over blocks."""
    if not found:
        return ""
    rows = [[parcels, split, f"{first} less {other}", one.text()] for (split, parcels, other), one in found.items()]
    note = "In brackets: 95 % of resamplings of whole blocks; one that holds 0 is no difference that these blocks can show."
    return markdown([["parcels", "split", "R2", "difference"], *rows], n_left=3) + f"\n\n{note}"


def haze_note(hazy: Mapping[int, float], data: ScoredSeries) -> str:
    """Return a line on the dates that are too low as a whole."""
    if not hazy:
        return "No date's views are too low as a whole."
    days = ", ".join(f"{data.on(day).isoformat()} ({departure:+.2f})" for day, departure in sorted(hazy.items()))
    return (
        f"Views too low as a whole, compared with the views before and after alone (haze; median departure): {days}. No reconstruction "
        "from radar can follow them and be right; they count in all figures but the column that says so."
    )


def date_table(scores: Sequence[Score], hazy: Mapping[int, float]) -> str:
    """Return a row a date: views, what was observed, then R2 and RMSE of each model, and the bias of the first."""
    models = list(dict.fromkeys(one.model for one in scores))
    figures = {name: over_seeds(scores, name) for name in ("r2", "rmse", "bias", "r2_shape")}
    rows, seen = (
        [],
        dict.fromkeys((one.at, one.day, one.split, one.parcels) for one in sorted(scores, key=lambda one: one.day)),
    )
    for at, day, split, parcels in seen:
        here = [one for one in scores if (one.at, one.split, one.parcels) == (at, split, parcels)]
        values = {
            name: [own.get((split, parcels, at, model), (float("nan"),))[0] for model in models]
            for name, own in figures.items()
        }
        rows.append(
            [
                at + (" hazy" if int(day) in hazy else ""),
                str(here[0].n),
                f"{here[0].observed:.2f}",
                *(_low(one, f"{one:.2f}") for one in values["r2"]),
                *(f"{one:.3f}" for one in values["rmse"]),
                f"{values['bias'][0]:+.2f}",
                f"{values['r2_shape'][0]:.2f}",
            ]
        )
    head = [
        "date",
        "views",
        "observed",
        *(f"R2 {one}" for one in models),
        *(f"RMSE {one}" for one in models),
        f"bias {models[0]}",
        f"R2 less bias {models[0]}",
    ]
    return markdown([head, *rows], n_left=1)


def markdown(rows: Table, n_left: int) -> str:
    """Return a Markdown table; the first row heads it, the first columns are text."""
    head, *body = rows
    rule = ["---" if nr < n_left else "--:" for nr in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def figure(value: tuple[float, float] | None, is_r2: bool) -> str:
    """Return a figure with its spread over seeds, empty where there is none."""
    if value is None:
        return ""
    return _low(value[0], _mean_sd(*value)) if is_r2 else _mean_sd(*value)


def _mean_sd(mean: float, sd: float, digits: int = 3) -> str:
    return f"{mean:.{digits}f}" if isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _low(value: float, text: str) -> str:
    return f"*{text}*" if value < AIM_R2 else text
