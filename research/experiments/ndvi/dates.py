"""Fig. 6 and Table 4 of Zhao et al. 2020: R2 and RMSE on each date, the models side by side, and over the season.

Every series is answered once, by the model of the folds that it is not in; a date's R2 is about the mean of what was observed
on that date over all of them. Arable crops and grass are reported apart. Dates that haze lowers as a whole are named, and
counted in all figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from research.experiments.ndvi import pages, plots
from research.experiments.ndvi.haze import hazy_days
from research.experiments.ndvi.runs import Answer, Runs
from research.experiments.ndvi.scores import Difference, Score, Views, by_date, difference, joined, pooled
from research.experiments.ndvi.splits import Split, fold_trials

SEASON = "season"


@dataclass(frozen=True)
class Found:
    """What was measured."""

    scores: list[Score]
    """Of the season and of each date."""
    differences: dict[tuple[str, str, str], Difference]
    """By (split, parcels, other model): R2 of the season, the first model's less the other's."""
    hazy: Mapping[int, float]
    """Hazy days and how far they are too low."""
    cost: Mapping[str, pages.Cost]
    """By model."""


def measure(runs: Runs, splits: Sequence[Split], folds: Sequence[int], seeds: Sequence[int], min_views: int) -> Found:
    """Return the figures of every split, model and seed on the pooled folds."""
    series, kinds = runs.data.series, runs.data.kinds
    scores, differences, answers = list[Score](), dict[tuple[str, str, str], Difference](), list[tuple[str, Answer]]()
    for split in splits:
        trials = fold_trials(series, split, folds)
        said = runs.answers(trials, seeds)
        answers += [(model, one) for (model, _, _), one in said.items()]
        views = {
            (model, seed): pooled(runs.data, [said[model, trial.name, seed] for trial in trials])
            for model in runs.configs
            for seed in seeds
        }
        for kind, who in kinds.items():
            own = {key: one.of(who[one.parcel]) for key, one in views.items()}
            scores += _scores(runs, own, split, kind, min_views)
            first, *others = runs.configs
            for other in others:
                a, b = (joined([own[model, seed] for seed in seeds]) for model in (first, other))
                if len(a.parcel):
                    differences[split, kind, other] = difference(a, b, series.block)
    arable = runs.data.is_arable[series.clear.parcel]
    return Found(scores, differences, hazy_days(series.clear.rows(arable)), pages.costs(runs, answers))


def _scores(runs: Runs, views: Mapping[tuple[str, int], Views], split: Split, kind: str, min_views: int) -> list[Score]:
    found = []
    for (model, seed), own in views.items():
        if len(own.parcel):
            found.append(own.score(split, model, kind, SEASON, float("nan"), seed))
            found += by_date(runs.data, own, split, model, kind, seed, min_views)
    return found


def write(folder: Path, found: Found, title: str, runs: Runs) -> str:
    """Write dates.csv, report.md and the plots; return the Markdown."""
    pages.write_csv(folder / "dates.csv", found.scores)
    dates = [one for one in found.scores if one.at != SEASON]
    parts = [f"# NDVI from radar alone, date by date: {title}", pages.NOTE]
    parts += [pages.season_table(found.scores, SEASON, found.hazy), pages.cost_table(found.cost)]
    parts.append(pages.difference_table(found.differences, next(iter(runs.configs))))
    parts.append(pages.haze_note(found.hazy, runs.data))
    for split in dict.fromkeys(one.split for one in dates):
        own = [one for one in dates if one.split == split]
        plots.dates(folder / f"dates-{split}.png", own, found.hazy, runs.data.on)
        parts.append(f"## {split.capitalize()} split\n\n![R2 and RMSE by date](dates-{split}.png)")
        arable = [one for one in own if one.parcels == "arable"] or own
        parts.append(pages.date_table(arable, found.hazy))
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text
