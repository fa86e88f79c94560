"""Samples, estimates and reports of quality: pure functions, against known truth and published values."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.quality import AlertVerdictRow, DrawnRow, StoredSampleRow, StratumRow, VerdictRow
from monitor.alerts.rules import RULES
from monitor.quality import estimates, filled, report, sampling
from monitor.quality.estimates import FEWEST, clopper_pearson, design, kappa, share
from monitor.quality.verdicts import ANSWERS, CHOICES, departs, newest_of_each, settled

AT = datetime(2025, 7, 1, tzinfo=UTC)
WRONG: Final = {"red": 0.25, "yellow": 0.5, "green": 0.04, "not_valid": 0.1}
"""Share of lights that are truly wrong in the made population."""
N_OF: Final = {"red": 160, "yellow": 240, "green": 3000, "not_valid": 600}


class Population:
    """Parcels with lights, crops and a known truth; what the report should find of all of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.light = [light for light, n in N_OF.items() for _ in range(n)]
        self.crop = rng.choice(["maize", "wheat", "beet", "hemp"], len(self.light), p=[0.5, 0.3, 0.17, 0.03]).tolist()
        self.ids = [f"parcel {nr}" for nr in range(len(self.light))]
        is_wrong = rng.random(len(self.light)) < np.array([WRONG[one] for one in self.light])
        says_departs = np.isin(self.light, ["red", "yellow"])
        self.departs = np.where(is_wrong, ~says_departs, says_departs)
        self.area = rng.gamma(2.0, 2.0, len(self.light))
        rank = {place: nr + 1 for nr, place in enumerate(np.flatnonzero(says_departs).tolist())}
        self.rank = [rank.get(place) for place in range(len(self.light))]
        self.strata = sampling.strata(self.light, self.crop, 3)

    def true(self, light: str, weight: np.ndarray[Any, Any] | None = None) -> float:
        its = np.array(self.light) == light
        hit = self.departs if light in ("green", "not_valid") else ~self.departs
        return float(np.average(hit[its], weights=None if weight is None else weight[its]))

    def reviewed(self, seed: str, n: int, allocation: sampling.Allocation = "proportional") -> dict[str, Any]:
        """Return the report of a sample whose reviewers are always right."""
        counts = Counter(self.strata)
        names = sorted(counts, key=str)
        sizes = np.array([counts[one] for one in names])
        wrong = np.array([WRONG[light] for light, _ in names])
        drawn = sampling.allocate(sizes, wrong, n, allocation, 2)
        places = sampling.draw(self.ids, self.strata, dict(zip(names, drawn.tolist(), strict=True)), seed)
        strata = [
            StratumRow(nr, light, crop, int(size), int(of), 0.0)
            for nr, ((light, crop), size, of) in enumerate(zip(names, sizes, drawn, strict=True))
        ]
        items = [
            DrawnRow(
                item,
                names.index(self.strata[place]),
                "r",
                float(self.area[place]),
                self.light[place],
                {},
                self.rank[place],
            )
            for item, place in enumerate(places, 1)
        ]
        verdicts = [
            VerdictRow(item, "lost" if self.departs[place] else "as_declared", "anna", None)
            for item, place in enumerate(places, 1)
        ]
        stored = StoredSampleRow(
            1, "2025", "nl", AT, AT, "anna", "", seed, allocation, 0.95, None, len(self.ids), len(items), len(items)
        )
        return report.of_sample(stored, strata, items, verdicts, [400])


RUNS: Final = 400
HIT_BAND: Final = (0.93, 1.0)
"""Of 400 intervals that hold the truth 95 times in 100, 93 % to 97 % do (two standard deviations); ours promise at least that."""


@pytest.mark.parametrize("allocation", ["proportional", "neyman"])
def test_intervals_hold_the_truth_as_often_as_they_say(allocation: sampling.Allocation) -> None:
    of = Population()
    figures = {
        "false_reds": of.true("red"), "false_yellows": of.true("yellow"), "false_greens": of.true("green"),
        "missed_undecided": of.true("not_valid"),
    }  # fmt: skip
    holds, widths, values = Counter[str](), Counter[str](), Counter[str]()
    for run in range(RUNS):
        said = of.reviewed(f"run {run}", 500, allocation)
        cell = said["figures"][0]
        for name, true in figures.items():
            for unit in ("of_parcels", "of_area"):
                truth = true if unit == "of_parcels" else of.true(_light(name), of.area)
                one = cell[name][unit]
                assert not one["too_few"]
                holds[f"{name} {unit}"] += one["low"] <= truth <= one["high"]
                widths[f"{name} {unit}"] += (one["high"] - one["low"]) / RUNS
                values[f"{name} {unit}"] += (one["value"] - truth) / RUNS
        lift = said["lift"][0]["found"]
        truth = float(of.departs[np.array([one is not None for one in of.rank])].sum() / of.departs.sum())
        holds["lift"] += lift["low"] <= truth <= lift["high"]
    for name, n in holds.items():
        assert HIT_BAND[0] <= n / RUNS <= HIT_BAND[1], f"{name}: {n / RUNS}"
    for name, bias in values.items():
        assert abs(bias) < 0.1 * widths[name], f"{name} is biased by {bias}"
    # Not by being useless: a simple random sample of the red ones would give about 4 s / sqrt(n) = 0.35 of 24.
    assert widths["false_greens of_parcels"] < 0.07
    assert widths["false_yellows of_parcels"] < 0.45


def _light(figure: str) -> str:
    return {"false_reds": "red", "false_yellows": "yellow", "false_greens": "green"}.get(figure, "not_valid")


@pytest.mark.parametrize("allocation", ["proportional", "neyman"])
def test_a_sample_of_a_wanted_half_width_has_it(allocation: sampling.Allocation) -> None:
    """Of the share of wrong lights: within a fifth, by which intervals are wider that hold at small numbers."""
    of = Population()
    counts = Counter(of.strata)
    sizes, wrong = np.array(list(counts.values())), np.array([WRONG[light] for light, _ in counts])
    n = sampling.size(sizes, wrong, 0.02, 0.95, allocation)
    truth = float((of.departs != np.isin(of.light, ["red", "yellow"])).mean())
    found = [
        of.reviewed(f"width {run}", n, allocation)["figures"][0]["wrong_lights"]["of_parcels"] for run in range(100)
    ]
    assert 0.02 * 0.9 < np.mean([(one["high"] - one["low"]) / 2 for one in found]) < 0.02 * 1.2
    assert sum(one["low"] <= truth <= one["high"] for one in found) >= 90  # of 95: two standard deviations


def test_weights_undo_what_the_allocation_did() -> None:
    """A share over all strata of a sample that drew red parcels far more often: unweighted it would be far off."""
    of = Population()
    truth = float(of.departs.mean())
    found = []
    for run in range(40):
        said = of.reviewed(f"weights {run}", 500, "neyman")
        cell = said["figures"][0]
        per_1000 = sum(cell[name]["per_1000_parcels"]["value"] for name in ("false_greens", "missed_undecided"))
        found.append(per_1000 / 1000)
    missed = float((of.departs & np.isin(of.light, ["green", "not_valid"])).mean())
    assert np.mean(found) == pytest.approx(missed, rel=0.1)
    assert missed < truth


def test_the_size_gives_the_half_width_that_is_wanted() -> None:
    sizes, wrong = np.array([100, 300, 9000]), np.array([0.3, 0.5, 0.05])
    for allocation in ("proportional", "neyman"):
        n = sampling.size(sizes, wrong, 0.02, 0.95, allocation)
        drawn = sampling.allocate(sizes, wrong, n, allocation, 0)
        assert drawn.sum() == n
        assert sampling.half_width(sizes, wrong, drawn, 0.95) == pytest.approx(0.02, rel=0.03)
    assert sampling.size(np.array([50]), np.array([0.5]), 0.001, 0.95, "proportional") == 50
    # Cochran 1977, section 4.4: 95 %, half-width 5 points, share 0.5 of 4,000 needs 351.
    assert sampling.size(np.array([4000]), np.array([0.5]), 0.05, 0.95, "proportional") == 351


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 0.99)), min_size=1, max_size=30),
    st.integers(1, 3000),
    st.integers(0, 5),
    st.sampled_from(["proportional", "neyman"]),
)
def test_an_allocation_is_whole_and_within_its_strata(
    strata: list[tuple[int, float]], n: int, minimum: int, allocation: sampling.Allocation
) -> None:
    sizes, wrong = np.array([one for one, _ in strata]), np.array([one for _, one in strata])
    drawn = sampling.allocate(sizes, wrong, min(n, int(sizes.sum())), allocation, minimum)
    assert ((drawn <= sizes) & (drawn >= np.minimum(sizes, minimum))).all()
    assert drawn.sum() >= min(n, sizes.sum())
    assert drawn.sum() <= min(n, sizes.sum()) + minimum * len(strata)


def test_a_draw_depends_on_its_seed_alone_and_each_parcel_comes_as_often() -> None:
    ids = [f"p{nr}" for nr in range(40)]
    of: list[sampling.Stratum] = [("red", None)] * 10 + [("green", "maize")] * 30
    n_of: dict[sampling.Stratum, int] = {("red", None): 5, ("green", "maize"): 6}
    first = sampling.draw(ids, of, n_of, "seed")
    assert first == sampling.draw(ids, of, n_of, "seed")
    assert Counter(of[place] for place in first) == n_of
    shuffled = list(reversed(range(40)))
    again = sampling.draw([ids[nr] for nr in shuffled], [of[nr] for nr in shuffled], n_of, "seed")
    assert [ids[nr] for nr in first] == [ids[shuffled[nr]] for nr in again], "whatever order the store gives them in"
    times = Counter[int]()
    n_red_first = 0
    for seed in range(2000):
        drawn = sampling.draw(ids, of, n_of, str(seed))
        times.update(drawn)
        n_red_first += of[drawn[0]][0] == "red"
    assert all(abs(times[nr] / 2000 - (0.5 if nr < 10 else 0.2)) < 0.06 for nr in range(40))
    assert n_red_first / 2000 == pytest.approx(5 / 11, abs=0.05), "the order says nothing of the strata"


def test_rare_crops_share_a_stratum() -> None:
    found = sampling.strata(["red", "green", "green", "red"], ["maize", "maize", "hemp", None], 1)
    assert found == [("red", "maize"), ("green", "maize"), ("green", None), ("red", None)]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (4, 20, 0.0573, 0.4366), (20, 20, 0.8316, 1.0), (81, 263, 0.2527, 0.3676)],
)
def test_clopper_pearson_is_as_published(hits: int, n: int, low: float, high: float) -> None:
    """0 and n in closed form (1 - (a/2)^(1/n)); 4 of 20 from Clopper and Pearson 1934; 81 of 263 as Newcombe 1998, table I."""
    assert clopper_pearson(hits, n, 0.95) == pytest.approx((low, high), abs=5e-4)


def test_kappa_is_as_published() -> None:
    """Cohen 1960, as commonly worked: 20 and 15 agreed, 5 and 10 not."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa(["a"] * 12, ["a"] * 12) is None


def test_a_stratified_variance_is_cochrans() -> None:
    """Two strata by hand: sum W_h^2 s_h^2 / n_h (1 - f_h), of a share over all parcels."""
    stratum = np.repeat([0, 1], [8, 12])
    hit = np.array([1, 1, 1, 0, 0, 0, 0, 0] + [1] + [0] * 11, np.float64)
    of = design(stratum, np.array([80, 920]), np.array([0, 1]))
    value = 0.08 * 3 / 8 + 0.92 / 12
    by_hand = 0.08**2 * (15 / 56) / 8 * 0.9 + 0.92**2 * (11 / 132) / 12 * (1 - 12 / 920)
    found = share(of, hit, np.ones(20), 0.95)
    assert found.value == pytest.approx(value)
    variance, freedom = estimates._variance(of, of.weight * (hit - value) / 1000)
    assert variance == pytest.approx(by_hand)
    assert freedom == 18


def test_where_all_parcels_were_reviewed_nothing_is_uncertain() -> None:
    of = design(np.zeros(20, np.int64), np.array([20]), np.array([0]))
    found = share(of, np.repeat([1.0, 0.0], 10), np.ones(20), 0.95)
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_strata_without_a_verdict_are_represented_by_those_of_their_light_or_said_to_be_missing() -> None:
    population, light = np.array([100, 50, 30, 20]), np.array([0, 0, 1, 2])
    of = design(np.array([0] * 5 + [3] * 2), population, light)
    assert of.n_unseen == 30
    assert of.weight.sum() == pytest.approx(170)
    assert of.weight[:5] == pytest.approx([30.0] * 5)


def test_too_few_verdicts_give_no_number() -> None:
    of = design(np.zeros(50, np.int64), np.array([500]), np.array([0]))
    counted = np.zeros(50)
    counted[: FEWEST - 1] = 1
    assert report.said(share(of, counted, counted, 0.95)) == {"n": FEWEST - 1, "too_few": True}
    counted[FEWEST - 1] = 1
    assert report.said(share(of, counted, counted, 0.95))["value"] == 1


def given_verdicts(*pairs: tuple[str, str]) -> list[VerdictRow]:
    return [VerdictRow(1, verdict, reviewer, None) for reviewer, verdict in pairs]


def test_several_verdicts_become_one() -> None:
    assert settled(["lost", "lost", "other_crop"]) == "lost"
    assert settled(["lost", "other_crop"]) == "disputed"
    assert settled(["lost", "cannot_tell"]) == "lost"
    assert settled(["cannot_tell"]) == "cannot_tell"
    newest = newest_of_each(given_verdicts(("anna", "lost"), ("ben", "as_declared"), ("anna", "as_declared")))
    assert newest == {"anna": "as_declared", "ben": "as_declared"}


def test_a_rule_is_judged_by_what_it_claims() -> None:
    assert departs("other_crop", "crop_mismatch")
    assert not departs("lost", "crop_mismatch")
    assert departs("other_crop_in_part", "parts")
    assert not departs("other_crop", "parts"), "a crop that is wrong throughout is one part"
    assert not departs("other_crop_in_part", "crop_mismatch")
    assert departs("lost", None)
    assert departs("flooded", "early_loss")
    assert not departs("lost", "flooding")
    assert tuple(ANSWERS) == RULES, "a new rule claims something that a reviewer can say"
    assert departs("other_departure", "a_rule_to_come")
    assert not departs("as_declared", "a_rule_to_come")


def reported(items: Sequence[DrawnRow], verdicts: Sequence[VerdictRow], n_parcels: int = 400) -> dict[str, Any]:
    stored = StoredSampleRow(
        1, "2025", "nl", AT, AT, "anna", "", "s", "proportional", 0.95, None, n_parcels, len(items), len(items)
    )
    strata = [StratumRow(0, "green", None, n_parcels, len(items), 0.0)]
    return report.of_sample(stored, strata, items, verdicts, [])


def test_rules_and_regions_have_figures_of_their_own() -> None:
    lights = {"crop_mismatch": "green", "early_loss": "red"}
    items = [DrawnRow(nr, 0, "north" if nr <= 12 else "south", 1.0, "green", lights, None) for nr in range(1, 20)]
    verdicts = [VerdictRow(nr, "lost" if nr <= 3 else "as_declared", "anna", None) for nr in range(1, 20)]
    cells = {(cell["rule"], cell["region"]): cell for cell in reported(items, verdicts)["figures"]}
    assert cells["any rule", None]["false_greens"]["of_parcels"]["value"] == pytest.approx(3 / 19)
    assert cells["any rule", "north"]["false_greens"]["of_parcels"]["value"] == pytest.approx(3 / 12)
    assert cells["any rule", "south"]["false_greens"]["of_parcels"] == {"n": 7, "too_few": True}
    assert cells["early_loss", None]["false_reds"]["of_parcels"]["value"] == pytest.approx(16 / 19)
    assert cells["crop_mismatch", None]["false_greens"]["of_parcels"]["value"] == 0


def test_what_is_undecided_does_not_count_as_right() -> None:
    items = [DrawnRow(nr, 0, "r", 1.0, "green", {}, None) for nr in range(1, 31)]
    verdicts = [VerdictRow(nr, "cannot_tell" if nr <= 5 else "lost", "anna", None) for nr in range(1, 29)]
    verdicts.append(VerdictRow(28, "as_declared", "ben", None))
    said = reported(items, verdicts)
    assert (said["n_cannot_tell"], said["disputed"], said["n_decided"]) == (5, [28], 22)
    assert said["figures"][0]["false_greens"]["of_parcels"]["value"] == 1
    assert said["agreement"] == {"n": 1, "too_few": True}


def test_a_sample_without_verdicts_has_a_report() -> None:
    items = [DrawnRow(nr, 0, "r", 1.0, "green", {}, None) for nr in range(1, 31)]
    said = reported(items, [])
    assert (said["n_decided"], said["n_not_represented"]) == (0, 400)
    assert said["lift"][0]["found"]["too_few"]


def test_decided_alerts_are_counted_by_region_and_month_and_said_to_be_selected() -> None:
    rows = [
        AlertVerdictRow(nr, "early_loss", "red", "north" if nr < 12 else "south", date(2025, 6, 1), nr % 4 > 0)
        for nr in range(16)
    ]
    cells = {(cell["region"], cell["month"]): cell for cell in report.of_alerts(rows, 0.95)}
    assert all(cell["is_selected"] for cell in cells.values())
    assert cells[None, None]["false_reds"]["value"] == pytest.approx(4 / 16)
    assert cells["north", "2025-06"]["false_reds"]["n"] == 12
    assert cells["south", "2025-06"]["false_reds"] == {"n": 4, "too_few": True}


WORDS = [
    "sample",
    "item",
    "verdict",
    "why",
    "by",
    "1",
    "2",
    "lost",
    "as declared",
    "=x",
    '"',
    "",
    "é",
    "\0",
    "\x1b[2J",
    "9" * 400,
]
CELLS = st.sampled_from(WORDS)


@given(
    st.lists(st.lists(CELLS, max_size=7), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
    st.binary(max_size=4),
)
def test_whatever_a_form_holds_each_fault_is_one_line(
    rows: list[list[str]], delimiter: str, has_header: bool, noise: bytes
) -> None:
    lines = [["sample", "item", "verdict", "why", "by"], *rows] if has_header else rows
    content = "\n".join(delimiter.join(row) for row in lines).encode() + noise
    for one in filled.read(content, 1, range(1, 3), None):
        if isinstance(one, filled.Wrong):
            assert one.line >= 1
            assert one.why.isprintable()
        else:
            assert one.item in (1, 2)
            assert one.verdict in CHOICES
            assert one.reviewer
            assert "\0" not in f"{one.reviewer}{one.reason}"


def test_the_page_says_of_each_verdict_what_the_form_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    for verdict, means in CHOICES.items():
        assert f"| `{verdict}` | {means.split(':')[0]} |" in page
