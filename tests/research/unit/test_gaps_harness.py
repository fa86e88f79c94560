"""The harness: what a method is given, and how its answers are scored."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import research.bench.gapfill
from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from research.experiments.gaps.filler import Filler, Mode, Views
from research.experiments.gaps.harness import Asked, folds, run, score, transfer
from research.experiments.gaps.series import GapSeries, calendar_year, is_grass, simulated

N, N_DAYS = 10, 366


def series(has_truth: bool = False) -> GapSeries:
    """Ten parcels in five blocks and folds; the last two are not scored, the last is not trained on."""
    parcel, day = np.repeat(np.arange(N), 30), np.tile(np.arange(0, 300, 10.0), N)
    clear = ClearSeries(parcel, day, 0.5 + parcel / 100)
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), day / 100 - 20, day / 100 - 25)
    group = np.array(["grasland"] * 4 + ["bieten"] * 4 + [""] * 2)
    block = np.array([4, 4, 3, 3, 2, 2, 1, 1, 0, 0])
    truth = np.full((N, N_DAYS), 0.5) + np.arange(N)[:, None] / 100 if has_truth else None
    return GapSeries("made", sar, clear, group, np.arange(N) < N - 1, block, block, truth)


@dataclass
class Known:
    """A filler that notes what it is given and answers the same to all."""

    name: str = "known"
    fitted: list[Any] = field(default_factory=list)
    value: float = 0.5
    sd: float = 0.01

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        self.fitted.append((sar, clear, n_parcels, seed))

    def fill(self, sar: SarSeries, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:  # noqa: ARG002
        return np.full(len(day), self.value), np.full(len(day), self.sd)


def test_training_parcels_are_renumbered_along_the_map() -> None:
    sar, clear, n = series().training(np.arange(N) >= 6)
    assert n == 4
    # blocks 0 (parcels 8, 9) and 1 (6, 7), in this order
    assert clear.ndvi[::30].tolist() == pytest.approx([0.58, 0.59, 0.56, 0.57])
    assert np.bincount(sar.parcel).tolist() == [30] * 4


def test_a_fold_is_tested_by_what_learned_on_the_others() -> None:
    filler = Known()
    asked, _ = run(folds(series(), [4]), [lambda: filler], seed=3)
    [(_, clear, n, seed)] = filler.fitted
    assert set(asked.parcel.tolist()) == {0, 1}
    assert n == 7  # all but the two tested and the one that may not be trained on
    assert seed == 3
    assert not np.isin([0.50, 0.51], clear.ndvi).any()


def test_all_scored_views_are_asked_once_over_the_folds() -> None:
    asked, results = run(folds(series()), [Known])
    assert len(asked.ndvi) == 8 * 30
    assert {one.scores[10].n for one in results} == {8 * 30}
    assert [one.mode for one in results] == ["retrospective", "causal"]


def test_transfer_learns_from_all_of_the_other_season() -> None:
    filler = Known()
    asked, _ = run(transfer(series(), series()), [lambda: filler])
    assert filler.fitted[0][2] == N - 1
    assert len(asked.ndvi) == 8 * 30


def test_a_sample_is_the_same_for_every_method() -> None:
    asked, results = run(folds(series()), [Known, lambda: Known(name="other")], sample=50)
    assert len(asked.ndvi) == 50
    assert {one.scores[30].n for one in results} == {50}


def test_scores_by_hand() -> None:
    asked = Asked(
        np.arange(4), np.arange(4), np.array([0.1, 0.2, 0.3, 0.4]), np.array(["gras", "gras", "b", "b"]), None
    )
    mean, sd = np.array([0.2, 0.2, 0.3, 0.0]), np.full(4, 0.06)
    found = score(asked, asked.ndvi, mean, sd)
    assert found.rmse == pytest.approx(np.sqrt((0.01 + 0.16) / 4))
    assert found.bias == pytest.approx((0.1 - 0.4) / 4)
    assert found.coverage == 0.75
    assert found.median_abs_error == pytest.approx(0.05)
    assert found.rmse_by_group == pytest.approx(
        {"b": 0.4 / np.sqrt(2), "gras": 0.1 / np.sqrt(2), "grass": 0.1 / np.sqrt(2), "arable": 0.4 / np.sqrt(2)}
    )


def test_truth_is_scored_where_it_is_known() -> None:
    _, [result, _] = run(folds(series(has_truth=True)), [Known])
    assert result.true_scores[10].rmse == pytest.approx(result.scores[10].rmse)
    _, [result, _] = run(folds(series()), [Known])
    assert result.true_scores == {}


def test_an_answer_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="known, retrospective, gap 10: an answer is not finite"):
        run(folds(series()), [lambda: Known(value=np.nan)])


def test_without_a_view_there_is_nothing_to_ask() -> None:
    empty = replace(series(), clear=ClearSeries(np.zeros(0, np.int64), np.zeros(0), np.zeros(0)))
    with pytest.raises(ValueError, match="no scored parcel has a clear view"):
        run(folds(empty), [Known])


def test_grass_is_told_by_its_words() -> None:
    groups = np.array(["grasland", "permanent grassland", "witlof", "winter wheat"])
    assert is_grass(groups).tolist() == [True, True, False, False]


def test_a_simulated_calendar_year_knows_its_truth() -> None:
    made = simulated(calendar_year(2024, 3, 40, 4))
    assert made.truth is not None
    assert made.truth.shape[1] == 366
    assert made.clear.day.max() < 366
    error = made.truth[made.clear.parcel, made.clear.day.astype(int)] - made.clear.ndvi
    assert np.median(np.abs(error)) < 0.03


def test_keys_of_the_benchmark() -> None:
    makers: list[type[Filler] | Any] = [lambda: Known(name="peer", value=0.6), lambda: Known(name="ours")]
    found = json.loads(json.dumps(research.bench.gapfill.summary(*run(folds(series()), makers))))
    best = found["best_peer"]["causal"]["gap_30"]
    assert best["method"] == "peer"
    assert found["methods"]["ours_causal"]["gap_90"].keys() >= {"rmse", "bias", "coverage", "n"}
    ours = found["methods"]["ours_causal"]["gap_30"]["rmse"]
    assert found["gain_at_30"]["causal"] == pytest.approx(1 - ours / best["rmse"])
    assert found["series_per_s"].keys() == {f"{a}_{b}" for a in ("peer", "ours") for b in ("causal", "retrospective")}


def test_an_unknown_method_is_named() -> None:
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(research.bench.gapfill.main)
    result = CliRunner().invoke(app, ["--methods", "magic"])
    assert result.exit_code == 2
    assert "magic" in result.output
