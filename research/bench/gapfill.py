"""Clear NDVI hidden in artificial gaps of 10 to 90 days: our curve beside its references, retrospective and causal.

    python -m research.bench.gapfill [--json] [--data DIR [--train-on DIR2]] [--simulator] [--methods ours,boosting] [--folds 0,1]
                            [--seed 0] [--sample N] [--answers FILE]

Every clear view of the scored parcels is asked for in turn with all views within half the gap hidden; all methods answer
the same queries. A folder of the Dutch form: five blocked folds, pooled; with --train-on: learns from all of that
folder. Simulator: one season to learn from, another landscape and year to be scored on, against the hidden values and
against the true NDVI. Without --data and --simulator both are run, on PARCELWATCH_DATA (default ../shared/data).

JSON: methods.NAME.gap_DAYS.{n, rmse, bias, coverage, median_abs_error, rmse_by_group}, NAME = method_mode, such as
boosting_causal; best_peer.MODE.gap_DAYS.{method, rmse}; gain.MODE.gap_DAYS and gain_at_30.MODE = 1 - ours / best reference, by
RMSE; series_per_s.NAME: parcels' daily years filled by a second of one core. With both sources the folder's keys are at
the top and the simulator's the same under "simulator"; there gap_DAYS also has `true`, the scores against the truth.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from research.experiments.gaps.boosting import Boosting
from research.experiments.gaps.filler import MODES, Filler
from research.experiments.gaps.gaussian_process import GaussianProcess, Mogpr
from research.experiments.gaps.harness import Asked, MethodResult, NothingToAsk, Split, folds, run, transfer
from research.experiments.gaps.interpolation import Linear, SavitzkyGolay, Whittaker
from research.experiments.gaps.ours import Ours
from research.experiments.gaps.series import calendar_year, dutch, simulated
from research.experiments.gaps.simple_curve import SimpleCurve
from research.places import data_folder
from research.seasons.replay_source import SeasonDataError
from terminal.output import console

METHODS: dict[str, Callable[[], Filler]] = {
    "linear": Linear,
    "savgol": SavitzkyGolay,
    "whittaker": Whittaker,
    "simple": SimpleCurve,
    "gp": GaussianProcess,
    "mogpr": Mogpr,
    "boosting": Boosting,
    "ours": Ours,
}
OURS = "ours"
SIMULATED = ((2024, 1), (2025, 2))
"""Year and seed of the season to learn from and of the one to be scored on: other fields, other weather."""
SIMULATED_PARCELS, SIMULATED_PIXELS = 300, 16
"""About as many as the Dutch folder has; means of 16 pixels differ from those of 64 by less than the views' noise."""


def summary(asked: Asked, results: Sequence[MethodResult]) -> dict[str, Any]:
    """Return the keys of one source."""
    gaps = list(results[0].scores)
    methods, speed = {}, {}
    for one in results:
        name = f"{one.method}_{one.mode}"
        speed[name] = one.series_per_s
        methods[name] = {f"gap_{gap}": asdict(score) for gap, score in one.scores.items()}
        for gap, score in one.true_scores.items():
            methods[name][f"gap_{gap}"]["true"] = asdict(score)
    best, gain = {}, {}
    for mode in MODES:
        references = [one for one in results if one.mode == mode and one.method != OURS]
        own = next((one for one in results if one.mode == mode and one.method == OURS), None)
        if references:
            first = {gap: min(references, key=lambda one: one.scores[gap].rmse) for gap in gaps}
            best[mode] = {
                f"gap_{gap}": {"method": one.method, "rmse": one.scores[gap].rmse} for gap, one in first.items()
            }
            if own is not None:
                gain[mode] = {f"gap_{g}": 1 - own.scores[g].rmse / one.scores[g].rmse for g, one in first.items()}
    return {
        "queries": len(asked.ndvi),
        "parcels": len(np.unique(asked.parcel)),
        "methods": methods,
        "best_peer": best,
        "gain": gain,
        "gain_at_30": {mode: by_gap["gap_30"] for mode, by_gap in gain.items()},
        "series_per_s": speed,
    }


def tables(name: str, found: dict[str, Any]) -> list[Table]:
    """Return a table a mode: RMSE and coverage by gap, gain in the last row."""
    made = []
    for mode in MODES:
        rows = {key.removesuffix(f"_{mode}"): one for key, one in found["methods"].items() if key.endswith(f"_{mode}")}
        gaps = list(next(iter(rows.values())))
        what = f"{name}, {mode}: RMSE bias coverage; {found['queries']} queries of {found['parcels']} parcels"
        table = Table("", *(gap.removeprefix("gap_") + " d" for gap in gaps), "series/s", title=what)
        for method, one in rows.items():
            cells = [f"{one[g]['rmse']:.4f} {one[g]['bias']:+.3f} {one[g]['coverage']:.3f}" for g in gaps]
            table.add_row(method, *cells, f"{found['series_per_s'][f'{method}_{mode}']:.3g}")
            if "true" in one[gaps[0]]:
                true = [one[g]["true"] for g in gaps]
                table.add_row(
                    "  to the truth", *(f"{t['rmse']:.4f} {t['bias']:+.3f} {t['coverage']:.3f}" for t in true)
                )
        if mode in found["gain"]:
            table.add_row(
                "gain", *(f"{found['gain'][mode][g]:+.1%} on {found['best_peer'][mode][g]['method']}" for g in gaps)
            )
        made.append(table)
    return made


def splits_of_simulator() -> list[Split]:
    """Return one simulated season to learn from, another to be scored on."""
    made = [simulated(calendar_year(year, seed, SIMULATED_PARCELS, SIMULATED_PIXELS)) for year, seed in SIMULATED]
    return transfer(*made)


def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    data: Annotated[Path | None, typer.Option(help="folder of the Dutch form to score on")] = None,
    train_on: Annotated[Path | None, typer.Option(help="another such folder, to learn from")] = None,
    simulator: Annotated[bool, typer.Option("--simulator", help="the simulator, alone or beside --data")] = False,
    methods: Annotated[str, typer.Option(help="comma-separated")] = ",".join(METHODS),
    fold: Annotated[str, typer.Option("--folds", help="of a folder without --train-on")] = "0,1,2,3,4",
    seed: int = 0,
    sample: Annotated[int | None, typer.Option(help="ask so many hidden views, drawn at random")] = None,
    answers: Annotated[Path | None, typer.Option(help="write all answers to this .npz")] = None,
) -> None:
    """Print scores of each method by mode and gap, the best reference and our gain on it."""
    torch.set_num_threads(1)
    chosen = _named(methods)
    if train_on is not None and data is None:
        raise typer.BadParameter("--train-on needs --data, the folder to score on", param_hint="--train-on")
    if set(fold.split(",")) - set("01234"):
        raise typer.BadParameter(f"{fold}: give numbers of 0 to 4, such as 0,1", param_hint="--folds")
    sources: dict[str, Callable[[], list[Split]]] = {}
    if data is not None or not simulator:
        tested = data_folder("nl", data)
        sources[tested.resolve().name] = lambda: _splits_of_folder(tested, train_on, fold)
    if simulator or data is None:
        sources["simulator"] = splits_of_simulator
    begun = time.monotonic()

    def progress(line: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {line}", file=sys.stderr, flush=True)

    found: dict[str, dict[str, Any]] = {}
    for name, splits in sources.items():
        try:
            progress(name)
            asked, results = run(splits(), chosen, seed=seed, sample=sample, progress=progress)
        except (SeasonDataError, NothingToAsk) as error:
            raise typer.BadParameter(f"{name}: {error}") from error
        found[name] = {"source": name} | summary(asked, results)
        if answers is not None:
            _write(answers, name, asked, results)
    _print(found, as_json)


def _splits_of_folder(tested: Path, train_on: Path | None, fold: str) -> list[Split]:
    series = dutch(tested)
    if train_on is not None:
        return transfer(dutch(train_on), series)
    return folds(series, [int(one) for one in fold.split(",")])


def _named(methods: str) -> list[Callable[[], Filler]]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if unknown := [name for name in names if name not in METHODS] or ([methods] if not names else []):
        raise typer.BadParameter(
            f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}", param_hint="--methods"
        )
    return [METHODS[name] for name in names]


def _write(path: Path, source: str, asked: Asked, results: Sequence[MethodResult]) -> None:
    """All answers of a source, for a closer study: FILE-SOURCE.npz."""
    arrays: dict[str, Any] = {"parcel": asked.parcel, "day": asked.day, "ndvi": asked.ndvi, "group": asked.group}
    if asked.truth is not None:
        arrays["truth"] = asked.truth
    for one in results:
        for gap, (mean, sd) in one.answers.items():
            arrays[f"{one.method}_{one.mode}_{gap}"] = np.stack([mean, sd])
    np.savez(path.with_name(f"{path.stem}-{source}.npz"), **arrays)


def _print(found: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        first, *others = found.values()
        print(json.dumps(first | {one["source"]: one for one in others}))
        return
    for name, one in found.items():
        for table in tables(name, one):
            console.print(table)


if __name__ == "__main__":
    typer.run(main)
