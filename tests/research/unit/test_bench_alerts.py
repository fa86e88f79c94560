"""The benchmark of alerts: what was known on a day, the lifecycle of a season, and figures that can be wrong."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from monitor.alerts.rules import RULES, Finding
from monitor.alerts.settings import RuleSettings
from research.bench.alerts import forest
from research.bench.alerts.figures import Judged, colours, events_of, false_reds, ids_of, levels, lift, missed, scores
from research.bench.alerts.known import without_optical_dates
from research.bench.alerts.peers import KINDS, Process, first_of_each, scored, threshold
from research.bench.alerts.seasons import Simulated
from research.bench.alerts.watch import Alert, Inbox, watch
from research.simulator import SimulatorConfig
from training.metrics import Event, Raised

CONFIG = SimulatorConfig(
    year=2023, seed=5, n_parcels=120, regions=("lowlands",), n_pixels=4, s1_orbits=1, event_rate=4.0
)


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return Simulated.of(CONFIG)


def finding(colour: str, day: date | None, confidence: float = 0.5) -> Finding:
    return Finding("early_loss", "OK", colour, confidence, day, {"lost_on": str(day)} if day else {})  # type: ignore[arg-type]


def judged(alerts: list[Alert], events: list[Event], n: int = 100) -> Judged:
    parcels = pd.DataFrame(
        {"parcel_id": [str(nr) for nr in range(n)], "is_monitorable": True, "declared": "3301010101"}
    )
    parcels = parcels.assign(grown="3301010101", sowing=None, harvest=None)
    return Judged(parcels, events, alerts, {rule: np.full(n, 2) for rule in RULES})


def test_what_is_known_of_a_day_is_what_was_available_and_not_yet_replaced(simulated: Simulated) -> None:
    rows = simulated.series.optical
    replaced = np.flatnonzero(rows.known_until < np.datetime64("9999-01-01"))[0]
    before, after = rows.known_until[replaced] - 1, rows.known_until[replaced]
    assert rows.on(before)[replaced]
    assert not rows.on(after)[replaced]
    assert not rows.on(rows.known_from[replaced] - 1)[replaced]
    assert (rows.known_from >= rows.days).all()
    assert simulated.series.views(np.datetime64("2023-05-01")).days.max() <= np.datetime64("2023-05-01")


def test_a_cloudy_season_loses_whole_optical_dates_and_no_radar(simulated: Simulated) -> None:
    season = simulated.season
    cloudy = without_optical_dates(season, 0.7)

    def dates(sensor: str, of: tuple[object, ...]) -> set[date]:
        return {one.observed_at.date() for one in of if one.sensor == sensor}  # type: ignore[attr-defined]

    assert len(dates("s2", cloudy.products)) == pytest.approx(0.3 * len(dates("s2", season.products)), abs=1)
    assert dates("s1", cloudy.products) == dates("s1", season.products)


def test_an_alert_opens_is_confirmed_closes_and_is_opened_again_in_its_episode() -> None:
    inbox, lost = Inbox(), date(2023, 5, 1)
    inbox.move(7, finding("yellow", lost), date(2023, 5, 3))
    inbox.move(7, finding("red", lost), date(2023, 5, 15))
    inbox.move(7, finding("green", None), date(2023, 6, 1))
    (alert,) = inbox.every
    assert (alert.opened_on, alert.confirmed_on, alert.closed_on) == (
        date(2023, 5, 3),
        date(2023, 5, 15),
        date(2023, 6, 1),
    )
    inbox.move(7, finding("yellow", lost), date(2023, 6, 5))
    assert inbox.every == [alert]
    assert alert.closed_on is None
    inbox.move(7, finding("green", None), date(2023, 6, 10))
    inbox.move(7, finding("yellow", date(2023, 8, 1)), date(2023, 8, 2))
    assert len(inbox.every) == 2


def test_rules_find_the_losses_of_a_small_season(simulated: Simulated) -> None:
    watched = watch(simulated.season, simulated.past, simulated.series, [], RuleSettings())
    of = Judged.of(simulated.season, watched)
    found = scores([of], confirmed=False)
    assert found["kinds"]["early_loss"]["found"] > 0
    assert found["rules"]["crop_mismatch"]["alerts"] == 0  # no classifier
    assert all(said.partition(": ")[2] for one in missed([of]) for said in one["said_last"].values() if "green" in said)
    assert len(missed([of])) + sum(one["found"] for one in found["kinds"].values()) == len(of.events)
    assert sum(colours([of]).values()) == pytest.approx(1, abs=0.01)
    assert found["false_reds_per_1000"] == pytest.approx(1000 * len(false_reds([of])) / of.n_watched, abs=0.001)


def test_figures_tell_right_from_false() -> None:
    day, red = date(2023, 5, 1), date(2023, 5, 20)
    right = Alert(0, "early_loss", day, finding("red", day, 0.9), red, reds=[(red, 0.9)])
    before = date(2023, 4, 1)
    early = Alert(1, "early_loss", before, finding("red", before), date(2023, 4, 20), reds=[(date(2023, 4, 20), 0.8)])
    events = [Event("0", "early_loss", date(2023, 4, 26)), Event("1", "early_loss", day), Event("2", "flood", day)]
    found = scores([judged([right, early], events)], confirmed=False)
    assert (found["precision"], found["recall"], found["median_days_to_alert"]) == (0.5, 0.333, 5.0)
    assert found["false_reds_per_1000"] == 10.0
    assert found["rules"]["flooding"]["recall"] == 0.0
    (false,) = false_reds([judged([right, early], events)])
    assert false["parcel"] == "1"


def test_a_wrong_declaration_seen_before_the_crop_was_sown_is_seen_and_not_false() -> None:
    day, sown = date(2023, 3, 1), date(2023, 4, 20)
    events = [Event("0", "wrong_declaration", sown), Event("1", "early_loss", sown)]
    alerts = [
        Alert(nr, rule, day, Finding(rule, "OK", "red", 0.9, day, {}), day, reds=[(day, 0.9)])
        for nr, rule in ((0, "crop_mismatch"), (0, "no_emergence"), (1, "early_loss"))
    ]
    found = scores([judged(alerts, events)], confirmed=False)
    assert found["rules"]["crop_mismatch"]["recall"] == 1.0
    assert found["rules"]["crop_mismatch"]["median_days_to_alert"] == 0.0
    assert found["precision"] == 0.333  # a loss that is seen before it happened is none
    assert [one["rule"] for one in false_reds([judged(alerts, events)])] == ["no_emergence", "early_loss"]


def test_lift_compares_the_first_inspections_with_random_ones() -> None:
    day = date(2023, 5, 1)
    events = [Event(str(nr), "early_loss", day) for nr in range(4)]
    right = [Alert(nr, "early_loss", day, finding("yellow", day)) for nr in range(4)]
    assert lift([judged(right, events)]) == 25.0  # all of them among the first four of a hundred
    assert lift([judged([], events)]) == pytest.approx(1.0)


def test_red_is_bounded_by_the_confidence_that_false_reds_do_not_reach() -> None:
    pytest.importorskip("mapie", reason="needs the extra `calibrate`")
    day, later = date(2023, 5, 1), date(2023, 5, 20)
    events = [Event(str(nr), "early_loss", date(2023, 4, 26)) for nr in range(20)]
    alerts = [
        Alert(nr, "early_loss", day, finding("red", day), day, reds=[(day, 0.75), (later, 0.98)]) for nr in range(20)
    ]
    alerts += [Alert(nr, "early_loss", day, finding("red", day), day, reds=[(day, 0.75)]) for nr in range(20, 40)]
    season = judged(alerts, events, n=3000)
    found = levels(season)
    assert found["early_loss"] == 0.98
    assert np.isinf(found["flooding"])  # nothing is red by it
    bounded = scores([season], confirmed=True, levels=found)
    assert (bounded["precision"], bounded["false_reds_per_1000"], bounded["reds_on_sound_per_1000"]) == (1.0, 0.0, 0.0)
    assert bounded["median_days_to_alert"] == 24.0
    assert scores([season], confirmed=True)["reds_on_sound_per_1000"] == pytest.approx(20 / 3, abs=0.001)


def test_a_threshold_is_that_of_highest_f1() -> None:
    score = np.linspace(0, 1, 40)[:, None] * [0.5, 1.0]
    process, ids = Process(np.array(["2023-05-01", "2023-06-01"], "M8[D]"), score), [str(nr) for nr in range(40)]
    events = [Event(str(nr), "flood", date(2023, 4, 1)) for nr in range(30, 40)]
    at, best = threshold(process, ids, events, KINDS["all"])
    assert best == 1.0
    assert {one.parcel_id for one in process.raised(ids, at)} == {one.parcel_id for one in events}


def test_peers_are_not_charged_with_what_another_rule_would_find() -> None:
    raised = Process(np.array(["2023-05-01"], "M8[D]"), np.ones((3, 1))).raised(["0", "1", "2"], 1.0)
    events = [Event("0", "flood", date(2023, 4, 1)), Event("1", "early_loss", date(2023, 4, 1))]
    assert scored(events, raised, KINDS["flooding"]).precision == 0.5
    assert scored(events, raised, KINDS["all"]).precision == pytest.approx(2 / 3)


def test_rules_scored_as_a_peer_have_one_alert_a_parcel() -> None:
    raised = [Raised("0", "no_emergence", date(2023, 6, 1)), Raised("0", "early_loss", date(2023, 5, 1))]
    (first,) = first_of_each(raised)
    assert first == Raised("0", "peer", date(2023, 5, 1))
    assert scored([Event("0", "flood", date(2023, 4, 1))], [first], KINDS["all"]).precision == 1.0


def test_the_forest_sees_only_what_became_known(simulated: Simulated) -> None:
    level = forest.levels(simulated.season, simulated.series)
    whole = forest.sample(simulated.season, simulated.series, level)
    rows = simulated.series.optical
    late = replace(rows, values=np.where(rows.known_from[:, None] > whole.days[20], 0.0, rows.values))
    other = forest.sample(simulated.season, replace(simulated.series, optical=late), level)
    assert np.array_equal(whole.x[:, :21], other.x[:, :21])
    assert not np.array_equal(whole.x, other.x)
    ids, events = ids_of(simulated.season.truth.parcels), events_of(simulated.season)
    y = forest.labels(ids, events, whole.days)
    assert (np.diff((y > 0).astype(int), axis=1) >= 0).all()
    assert (y[:, -1] > 0).sum() == len({one.parcel_id for one in events})


def test_monitors_find_a_field_that_falls_behind_its_neighbours(simulated: Simulated) -> None:
    pytest.importorskip("nrt", reason="needs the extra `research`")
    from research.bench.alerts import monitors

    days, residual = monitors.residuals(simulated.season, simulated.series, RuleSettings())
    assert abs(np.nanmedian(residual)) < 0.02
    random, before = np.random.default_rng(0), days - np.timedelta64(500, "D")
    history, monitored = random.normal(0, 0.03, (2, len(days), 4))
    monitored[len(days) // 2 :, 0] -= 0.5
    for kind, choices in monitors.MONITORS.values():
        for choice in choices:
            last = monitors.process(kind(**monitors.PLAIN, **choice), before, history, days, monitored).score[:, -1]
            assert last[0] > 3 * last[1:].max()
