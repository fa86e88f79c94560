"""A departure recovers with one view as declared and is over with the second in a row, by the dates of the views alone."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.alerts.evidence import recovering_since, why
from monitor.alerts.recovery import Departures, departures
from monitor.alerts.rules import Finding
from tests.unit.test_obligations import PLOUGH, decided, views_of
from tests.unit.test_rules import SETTINGS, early_loss, neighbours, no_emergence, views

BEGIN = date(2025, 1, 1)


def of(*shown: str, at_least: int = 1) -> Departures:
    """Return the departures of parcels seen daily; "x" departs, "o" is as declared, "." shows neither."""
    parcel = np.repeat(np.arange(len(shown)), [len(one) for one in shown])
    days = np.concatenate([np.datetime64(BEGIN) + np.arange(len(one)) for one in shown])
    each = np.array(list("".join(shown)))
    return departures(parcel, days, each == "x", each == "o", len(shown), at_least)


@pytest.mark.parametrize(
    ("shown", "at_least", "begins", "recovers"),
    [
        ("oox", 1, 2, None),
        ("ooxo", 1, 2, 3),
        ("ooxoo", 1, None, None),
        ("x.o.", 1, 0, 2),
        ("x.o.o", 1, None, None),
        ("xxox", 1, 3, None),  # begins anew: what came before one contrary view confirms nothing
        ("xxox", 2, 0, 2),  # a single departing view is none yet: what was found still recovers
        ("xxoxo", 2, 0, 2),
        ("xxoxoo", 2, None, None),
        ("xxoxx", 2, 3, None),
        ("xooxx", 1, 3, None),
        ("oo", 1, None, None),
        ("x", 2, None, None),
    ],
)
def test_when_a_departure_recovers_and_is_over(
    shown: str, at_least: int, begins: int | None, recovers: int | None
) -> None:
    found = of("xxxx", shown, "oxoo", at_least=at_least)
    first, recovering = (None if nr is None else BEGIN + timedelta(nr) for nr in (begins, recovers))
    assert (found.first[1].item(), found.recovering_on[1].item()) == (first, recovering)
    assert found.recovering_on[0].item() is None
    assert found.n.tolist()[0::2] == [4, 0]


def plain(shown: str, at_least: int) -> tuple[int | None, int | None]:
    """Return the same of one parcel, view by view: where the departure begins, and since when it recovers."""
    begin, recovers, goods, run = None, None, 0, list[int]()
    for nr, one in enumerate(shown):
        if one == "x":
            run, goods = [*run, nr], 0
            if len(run) >= at_least:
                begin, recovers = run[0], None
        elif one == "o":
            run, goods = [], goods + 1
            if begin is not None and recovers is None:
                recovers = nr
            if goods > 1:
                begin = recovers = None
    return begin, recovers


@given(st.lists(st.text("xo.", max_size=12), min_size=1, max_size=5), st.integers(1, 2))
def test_many_parcels_are_decided_as_view_by_view(shown: list[str], at_least: int) -> None:
    found = of(*shown, at_least=at_least)
    for nr, one in enumerate(shown):
        begin, recovers = plain(one, at_least)
        expected = [None if day is None else BEGIN + timedelta(day) for day in (begin, recovers)]
        assert [found.first[nr].item(), found.recovering_on[nr].item()] == expected


def colours(found: list[Finding]) -> list[str]:
    return [f"{one.colour}{', recovering' if recovering_since(one.evidence) else ''}" for one in found]


def test_no_emergence_recovers() -> None:
    seen = [(80, 0.2), (120, 0.2), (131, 0.2), (140, 0.6), (145, 0.7), (150, 0.2)]
    found = [no_emergence(views(*seen[: nr + 1]), neighbours(), SETTINGS) for nr in range(1, len(seen))]
    assert colours(found) == ["yellow", "red", "yellow, recovering", "green", "green"]
    assert found[2].departed_on == found[1].departed_on
    assert (found[1].confidence, found[2].confidence) == (0.75, 0.375)
    assert why("no_emergence", found[2].evidence).startswith(
        "as of 2025-05-21: recovering since 2025-05-21, over with one more clear view as declared, of another acquisition; emergence"
    )


def test_one_green_view_ends_no_missing_emergence_and_confirms_none() -> None:
    seen = views((80, 0.2), (120, 0.2), (125, 0.6), (131, 0.2))
    found = no_emergence(seen, neighbours(), SETTINGS)
    assert (found.colour, found.departed_on) == ("yellow", date(2025, 1, 1) + timedelta(131))


def test_early_loss_recovers_and_two_leaks_are_not_joined_to_the_harvest() -> None:
    seen = [(100, 0.7), (110, 0.8), (120, 0.1), (125, 0.1), (130, 0.7), (150, 0.2), (155, 0.2)]
    found = [early_loss(views(*seen[: nr + 1]), neighbours(down_on=148), False, SETTINGS) for nr in range(2, len(seen))]
    assert colours(found) == ["green", "yellow", "yellow, recovering", "yellow, recovering", "green"]


def test_what_is_green_only_once_had_nothing_to_lose() -> None:
    seen = views((100, 0.7), (120, 0.1), (125, 0.1), (130, 0.7))  # the second green view comes after
    assert early_loss(seen, neighbours(), False, SETTINGS).colour == "green"


def test_an_obligation_recovers_and_the_trial_sees_it_without_what_was_found_before() -> None:
    seen = [("2025-03-01", 0.6), ("2025-03-20", 0.7), ("2025-05-01", 0.2), ("2025-05-06", 0.7), ("2025-05-11", 0.8)]
    days = [
        decided(PLOUGH, 1, views_of(seen[: nr + 1]), np.array(["2025-06-01"], "M8[D]")).finding(0)
        for nr in range(1, len(seen))
    ]
    assert colours(days) == ["green", "yellow", "yellow, recovering", "green"]
    assert days[2].departed_on == date(2025, 5, 1)
