"""A reviewer who knows the simulated truth: what happened by the sample's day, with mistakes as often as wanted."""

from datetime import date

import pytest

from db.quality import FormRow
from monitor.quality.verdicts import ANSWERS as CLAIMS
from research.seasons.evaluate import ANSWERS
from research.seasons.truth_review import SHOWN_BY, verdicts
from training.metrics import Event

DAY = date(2025, 7, 1)


def rows(n: int) -> list[FormRow]:
    return [FormRow(nr + 1, nr, f"p{nr}", "maize", 1.0, 5.0, 52.0, 1) for nr in range(n)]


def test_what_happened_by_the_day_counts_and_a_wrong_declaration_always() -> None:
    events = [
        Event("p0", "flood", date(2025, 6, 1)),
        Event("p1", "flood", date(2025, 8, 1)),
        Event("p2", "wrong_declaration", date(2025, 8, 1)),
        Event("p3", "mowing", date(2025, 6, 1)),
        Event("p4", "early_loss", date(2025, 6, 1)),
        Event("p4", "mowing", date(2025, 6, 1)),
    ]
    found = [one.verdict for one in verdicts(rows(5), events, DAY, "truth")]
    assert found == ["flooded", "as_declared", "other_crop", "as_declared", "lost"]


def test_mistakes_are_as_frequent_as_wanted_and_never_the_truth() -> None:
    found = [one.verdict for one in verdicts(rows(4000), [], DAY, "truth", mistakes=0.1, seed=1)]
    assert sum(one != "as_declared" for one in found) / 4000 == pytest.approx(0.1, abs=0.02)
    assert found == [one.verdict for one in verdicts(rows(4000), [], DAY, "truth", mistakes=0.1, seed=1)]


def test_each_event_is_a_verdict_that_the_rules_which_answer_it_claim() -> None:
    assert {kind for kinds in ANSWERS.values() for kind in kinds} == SHOWN_BY.keys()
    assert all(SHOWN_BY[kind] in CLAIMS[rule] for rule, kinds in ANSWERS.items() for kind in kinds)
