"""NDVI under cloud: half of all series, then 70 % of them, held back whole from training.

    series    the optical series of that share of the parcels is held back complete, as under a cloud that never opens; models are
              trained on the others, and the held-back ones are reconstructed and scored in full
    views     five folds as in `dates`; of the parcels that are trained on, each loses that share of its clear views

The wording "complete series held back at 50 % and 70 % cloud" is read as the first, and that is the default: the paper's network
sees no optical value when it reconstructs, so that cloud can only take training series away from it, and only with a complete
series can every date be scored. The text of the paper was not at hand; the second reading, in which cloud takes views and not
parcels, is there beside it.
Source: Zhao et al. 2020 (missing optical series).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Final, Literal

from research.experiments.ndvi import pages, plots
from research.experiments.ndvi.haze import hazy_days
from research.experiments.ndvi.runs import Answer, Runs
from research.experiments.ndvi.scores import Score, by_date, pooled
from research.experiments.ndvi.splits import Split, Trial, clouded, fold_trials, held_back

Reading = Literal["series", "views"]
READINGS: Final[tuple[Reading, ...]] = ("series", "views")
SHARES: Final = (0.5, 0.7)
"""As the paper has them."""


@dataclass(frozen=True)
class Found:
    """What was measured."""

    scores: list[Score]
    """`at` is "series 50 %", then its dates as "series 50 % 2023-06-01"."""
    hazy: Mapping[int, float]
    cost: Mapping[str, pages.Cost]


def measure(
    runs: Runs,
    splits: Sequence[Split],
    shares: Sequence[float],
    readings: Sequence[Reading],
    folds: Sequence[int],
    draws: int,
    seeds: Sequence[int],
    min_views: int,
) -> Found:
    """Return the figures of each reading, share, split, model and seed; draws are pooled."""
    scores, answers = list[Score](), list[tuple[str, Answer]]()
    for split in splits:
        for reading in readings:
            for share in shares:
                trials = _trials(runs, split, reading, share, folds, draws)
                said = runs.answers(trials, seeds)
                answers += [(model, one) for (model, _, _), one in said.items()]
                for model in runs.configs:
                    for seed in seeds:
                        own = [said[model, trial.name, seed] for trial in trials]
                        scores += _scores(runs, own, split, model, f"{reading} {100 * share:.0f} %", seed, min_views)
    arable = runs.data.is_arable[runs.data.series.clear.parcel]
    return Found(scores, hazy_days(runs.data.series.clear.rows(arable)), pages.costs(runs, answers))


def write(folder: Path, found: Found, title: str) -> str:
    """Write clouds.csv, report.md and the plot; return the Markdown."""
    pages.write_csv(folder / "clouds.csv", found.scores)
    parts = [f"# NDVI from radar alone under cloud: {title}", pages.NOTE, READ]
    for at in dict.fromkeys(one.at for one in found.scores if isnan(one.day)):
        own = [one for one in found.scores if one.at.startswith(at)]
        parts.append(pages.season_table(own, at, found.hazy, heading=f"{at} held back"))
    parts.append(pages.cost_table(found.cost))
    plots.clouds(folder / "clouds.png", [one for one in found.scores if isnan(one.day)])
    parts.append("![R2 against the share held back](clouds.png)")
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


READ: Final = (
    "*series*: that share of the parcels is held back with its complete optical series, and reconstructed; models learn from the "
    "rest. *views*: folds as in `ndvi-dates`, and each parcel that is learned from has lost that share of its clear views."
)


def _trials(runs: Runs, split: Split, reading: Reading, share: float, folds: Sequence[int], draws: int) -> list[Trial]:
    series = runs.data.series
    if reading == "series":
        return [held_back(series, split, share, draw) for draw in range(draws)]
    return [clouded(one, series.clear, share, 0) for one in fold_trials(series, split, folds)]


def _scores(
    runs: Runs, answers: Sequence[Answer], split: Split, model: str, at: str, seed: int, min_views: int
) -> list[Score]:
    found, views = [], pooled(runs.data, answers)
    for kind, who in runs.data.kinds.items():
        own = views.of(who[views.parcel])
        if len(own.parcel):
            found.append(own.score(split, model, kind, at, float("nan"), seed))
            dates = by_date(runs.data, own, split, model, kind, seed, min_views)
            found += [one._replace(at=f"{at} {one.at}") for one in dates]
    return found
