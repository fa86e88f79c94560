"""Wrong declarations: swaps are seeded, no parcel is judged by a model of its own block, the rule runs along the course."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parcelwatch
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from models.classifier.sampling import PackedParcels
from models.classifier.scoring import predict
from monitor.alerts.rules import GREEN, NOT_EXECUTED, RED, UNKNOWN, YELLOW
from monitor.alerts.settings import RuleSettings
from terminal.errors import UserError
from training import cross_validation, declaration_evaluation
from training.config import ModelConfig, TrainingSection
from training.declaration_evaluation import Asked, cross_fitted, dates, evaluate
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
from training.labelled import NO_LABEL, LabelledParcels

PARCELS, START = 80, date(2024, 1, 1)
SMALL = ModelConfig(pixel_widths=(4,), embedding=8, attention=32, decoder=(8,))
QUICK = TrainingSection(epochs=2, batch=16, validate_every=2, refit=False)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> LabelledParcels:
    """Two crops told apart by a level, in twenty blocks; the first parcel has no observation, the last no label."""
    monkeypatch.setattr(declaration_evaluation, "MODEL", SMALL)
    random, label = np.random.default_rng(0), np.arange(PARCELS) % 2
    parcel = np.repeat(np.arange(1, PARCELS), 24)
    pixels = random.normal(size=(len(parcel), 2, 1)) + 4 * label[parcel][:, None, None]
    day = np.tile(np.linspace(5, 120, 24), PARCELS - 1).astype(np.float32)
    labels = label.copy()
    labels[-1] = NO_LABEL
    block = np.arange(PARCELS) // 4
    return LabelledParcels(
        "made up",
        {"s2": Observations(pixels.astype(np.float32), day, parcel, np.ones(len(parcel), np.int16))},
        np.tile([400.0, 1e4, 0.04, 0.9], (PARCELS, 1)),
        labels,
        ("low", "high"),
        (ModalityConfig("s2", ("a", "b"), pixels=1),),
        block % 5 + 1,
        block,
        (60.0, 121.0),
        ("middle", "end"),
        starts_on=START,
    )


def asked(*on: date, swap: float = 0.1) -> Asked:
    return Asked(swap, 0.05, on, 2, RuleSettings())


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), n=st.integers(4, 60))
def test_a_swap_never_leaves_the_classes_and_is_always_another(seed: int, share: float, n: int) -> None:
    labels = np.where(np.arange(n) % 5 == 4, NO_LABEL, np.arange(n) % 3)
    declared = swapped(labels, 5, share, seed)
    known = labels != NO_LABEL
    assert (declared[~known] == NO_LABEL).all()
    assert set(declared[known].tolist()) <= set(labels[known].tolist())  # classes 3 and 4 are declared by nobody
    assert (declared != labels).sum() == round(share * known.sum())
    assert (swapped(labels, 5, share, seed) == declared).all()


def test_another_seed_swaps_others_and_frequent_crops_are_declared_more_often() -> None:
    labels = np.repeat([0, 1, 2], [300, 30, 3])
    one, other = swapped(labels, 3, 0.5, 1), swapped(labels, 3, 0.5, 2)
    assert ((one != labels) != (other != labels)).any()
    wrong = one[(labels == 0) & (one != labels)]
    assert (wrong == 1).sum() > 5 * (wrong == 2).sum()


@pytest.mark.parametrize(("labels", "share"), [([0, 0, 0], 0.1), ([0, 1], 1.5), ([0, 1], -0.1)])
def test_what_cannot_be_swapped_is_refused(labels: Sequence[int], share: float) -> None:
    with pytest.raises(ValueError, match="can be swapped"):
        swapped(np.array(labels), 2, share, 1)


def test_parcels_without_a_label_are_left_out_and_the_others_keep_what_is_theirs(data: LabelledParcels) -> None:
    labels = data.labels.copy()
    labels[10] = NO_LABEL
    known = labelled_only(replace(data, labels=labels, parcel_ids=np.arange(PARCELS).astype(str)))
    assert len(known) == PARCELS - 2
    assert known.is_labelled.all()
    assert known.parcel_ids is not None
    for parcel in (9, 10, 77):
        own = int(known.parcel_ids[parcel])
        before = data.observations["s2"].pixels[data.observations["s2"].parcel == own]
        np.testing.assert_array_equal(
            known.observations["s2"].pixels[known.observations["s2"].parcel == parcel], before
        )
        assert known.block[parcel] == data.block[own]


def test_nothing_later_than_the_date_is_known(data: LabelledParcels) -> None:
    known = known_by(data, date(2024, 1, 31))
    assert known.observations["s2"].day.max() < 31 < data.observations["s2"].day.max()
    assert known.scored_on == (31.0,)
    assert known_by(data, date(2024, 3, 10)).scored_on == (60.0, 70.0)


@pytest.mark.parametrize("seed", range(2))
def test_no_block_of_a_parcel_is_in_what_its_model_learnt_from(
    data: LabelledParcels, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    learnt, answered = [], []
    train, answer = cross_validation.train_calibrated, declaration_evaluation.course  # type: ignore[attr-defined]

    def spied(config: Any, training: Any, inputs: Any, usable: Any, held: Any, **rest: Any) -> Any:
        learnt.append(set(data.block[usable].tolist()))
        assert all((one <= usable).all() for one in held)  # what gives the temperature is of the other folds too
        return train(config, training, inputs, usable, held, **rest)

    def asked_for(model: Any, dealt: Any, members: Any) -> Course:
        answered.append(members)
        return answer(model, dealt, members)

    monkeypatch.setattr(cross_validation, "train_calibrated", spied)
    monkeypatch.setattr(declaration_evaluation, "course", asked_for)
    declared = replace(data, labels=swapped(data.labels, 2, 0.2, seed))
    cross_fitted(declared, QUICK)
    assert len(learnt) == len(answered) == 5
    for blocks, members in zip(learnt, answered, strict=True):
        assert not blocks & set(data.block[members].tolist())
    assert sorted(np.concatenate(answered)) == np.flatnonzero(data.is_labelled).tolist()


def test_a_course_ends_where_the_whole_season_does(data: LabelledParcels) -> None:
    model = cross_validation.train_fold(data, SMALL, QUICK, 1)
    members = np.flatnonzero(data.is_labelled & (data.fold == 1))
    known = course(model, data, members)
    packed = PackedParcels.of(model.normaliser, data.observations, data.geometry)
    said = predict(model.network, packed, torch.from_numpy(members), (60.0, 121.0))
    for nr, day in enumerate((60.0, 121.0)):
        expected = model.temperature.probabilities(said.logits[nr], said.newest[nr])
        for place, parcel in enumerate(members):
            rows = np.flatnonzero((known.parcel == parcel) & (known.day <= day))
            if len(rows):
                np.testing.assert_allclose(known.probabilities[rows[-1]], expected[place], atol=1e-5)
                assert known.n_observations[rows[-1]] == len(rows)
    assert set(members) - set(known.parcel) == {0}  # never observed


WINTER_TOO = RuleSettings(mismatch_confirm_days=10, mismatch_confirm_from="01-01", mismatch_confirm_until="12-31")


def test_the_rule_turns_yellow_then_red_and_counts_nothing_that_was_not_declared() -> None:
    sure = np.tile([0.995, 0.005], (8, 1)).astype(np.float32)
    day = np.array([10, 20, 29, 31], np.float32)
    known = Course(np.repeat([0, 1], 4), np.tile(day, 2), np.tile([19, 20, 21, 22], 2), sure)
    found = verdicts(known, ("low", "high"), ["high", None, "low"], START, WINTER_TOO)
    assert found[1:4].tolist() == [YELLOW, YELLOW, RED]
    assert (found[4:] == NOT_EXECUTED).all()
    assert at(known, found, 30, 3).tolist() == [YELLOW, NOT_EXECUTED, UNKNOWN]
    right = verdicts(known, ("low", "high"), ["low", "low"], START, RuleSettings())
    assert right[1:4].tolist() == [GREEN] * 3


def test_counts_of_verdicts() -> None:
    found = np.array([RED, RED, YELLOW, GREEN, UNKNOWN, NOT_EXECUTED])
    counts = MismatchCounts.of(found, np.array([True, False, True, False, True, False])).figures()
    assert counts["judged"] == 4
    assert counts["precision"] == 0.5
    assert counts["recall"] == pytest.approx(1 / 3)
    assert counts["recall_judged"] == 0.5
    assert (counts["false_reds"], counts["false_reds_per_1000"]) == (1, 250)
    nothing = MismatchCounts.of(np.array([UNKNOWN]), np.array([False])).figures()
    assert nothing["precision"] is nothing["recall"] is nothing["false_reds_per_1000"] is None


def test_a_figure_that_a_seed_lacks_is_left_out_of_the_mean() -> None:
    found = summary([{"precision": 1.0}, {"precision": None}, {"precision": 0.5}])
    assert found["precision"] == {"mean": 0.75, "sd": pytest.approx(0.3536, abs=1e-4), "n": 2}
    assert summary([{"precision": None}])["precision"] == {"mean": None, "sd": None, "n": 0}


def test_an_evaluation_is_repeatable_and_a_past_season_may_teach(data: LabelledParcels) -> None:
    on, before = date(2024, 4, 30), replace(data, name="before")
    past, again = (evaluate(data, before, asked(on), [3]) for _ in range(2))
    assert past["by_date"] == again["by_date"]
    assert [of_day["date"] for of_day in past["by_date"]] == ["2024-04-30"]
    assert past["past_season"] == "before"
    assert past["by_date"][0]["past_season"]["swapped"]["mean"] == 8


def test_a_past_season_observed_otherwise_is_refused(data: LabelledParcels) -> None:
    other = replace(
        data,
        name="before",
        modalities=(ModalityConfig("s1a", ("a", "b"), pixels=1),),
        observations={"s1a": data.observations["s2"]},
    )
    with pytest.raises(UserError, match="--train-on before has s1a with a, b, made up has none"):
        evaluate(data, other, asked(date(2024, 4, 30)), [1])


def test_a_past_season_of_other_crops_is_refused_before_anything_is_trained(data: LabelledParcels) -> None:
    other = replace(data, name="before", classes=("low", "rice"))
    with pytest.raises(UserError, match="--train-on before has parcels of low, rice, made up of high, low; two crops"):
        evaluate(data, other, asked(date(2024, 4, 30)), [1])


def test_a_folder_without_labels_is_refused(data: LabelledParcels) -> None:
    bare = labelled_only(replace(data, labels=np.full(PARCELS, NO_LABEL)))
    with pytest.raises(UserError, match="here: its labelled parcels lie in 0 blocks, 5 are needed"):
        declaration_evaluation.observed(bare, Path("here"))


def test_dates_without_any_given_are_of_the_year_in_which_the_season_ends(data: LabelledParcels) -> None:
    assert dates(data, []) == (date(2024, 4, 30),)
    assert dates(replace(data, scored_on=(366.0,)), [])[:2] == (date(2024, 5, 1), date(2024, 6, 1))
    assert end_of(data, START) == 1.0


def test_a_date_outside_of_the_season_is_refused(data: LabelledParcels) -> None:
    with pytest.raises(UserError, match="from 2024-01-01 to 2024-04-30"):
        dates(data, [date(2031, 1, 1)])


def test_a_past_folder_that_is_not_there_is_refused_before_the_other_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        pytest.fail("it is read")

    monkeypatch.setattr(declaration_evaluation, "opened", read)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        declaration_evaluation.report(tmp_path, Path("nowhere"), "nl", asked(), [1], as_json=True)


@pytest.mark.parametrize("arguments", [["{}"], [".", "--train-on", "{}"], ["{}/here", "--train-on", "{}/here"]])
def test_bad_folders_are_one_line(
    tmp_path: Path, arguments: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["parcelwatch", "evaluate", "declarations", *(one.format(tmp_path) for one in arguments), "--json"]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as caught:
        parcelwatch.main()
    captured = capsys.readouterr()
    assert caught.value.code == 1
    assert captured.out == ""
    assert captured.err.startswith("parcelwatch: ")
    assert captured.err.count("\n") == 1


def test_the_command_prints_json_alone(
    data: LabelledParcels, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declaration_evaluation, "source", lambda *_: None)
    monkeypatch.setattr(declaration_evaluation, "opened", lambda *_: data)
    line = "parcelwatch evaluate declarations here --epochs 1 --seeds 2 --swap 0.1 --on 2024-03-01 --json"
    monkeypatch.setattr("sys.argv", line.split())
    with pytest.raises(SystemExit) as caught:
        parcelwatch.main()
    assert caught.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [1, 2]
    (of_day,) = found["by_date"]
    assert {"recall", "precision", "false_reds", "false_reds_per_1000", "judged"} <= set(of_day["cross_fitted"])
    assert set(of_day) == {"date", "cross_fitted", "past_season"}
    assert found["thresholds"]["mismatch_declared_below"] == RuleSettings().mismatch_declared_below
