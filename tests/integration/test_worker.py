"""The worker: what is asked for is made anew and nothing else, a broken model stops it, alerts rest on what is known."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
import torch

from db import alerts, observations, recording, registry, work
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream.schemas import S1, S2
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.training import GapTrainingConfig, fit_gaps
from monitor import schedule
from monitor.alerts.decisions import decide
from monitor.alerts.lifecycle import Event
from monitor.alerts.rules import RULES, VERDICTS
from monitor.alerts.settings import RuleSettings
from monitor.batch import ActiveModels, BatchContext
from monitor.crop_progress import KnownStands
from monitor.errors import NothingWorks
from monitor.settings import MonitorSettings
from monitor.stages import alerts as alert_stage
from monitor.stages import classify, markers
from monitor.worker import Worker
from tests.alert_log import Logged, fold
from training import season_models

START = date(2025, 1, 1)
N_NEIGHBOURS = 30
CLASSES = ("wheat", "maize")
SETTINGS = MonitorSettings(rules=RuleSettings(harvest_watch_days=0))
"""No loss is taken for the harvest, of which a first season knows nothing."""


@pytest.fixture(scope="module")
def classifier() -> CropModel:
    modality = ModalityConfig("s2", ("NDVI",), pixels=1)
    values = np.linspace(0.2, 0.8, 9, dtype=np.float32)[:, None, None]
    known = {"s2": Observations(values, np.zeros(9, np.float32), np.zeros(9, np.int64), np.zeros(9, np.int16))}
    normaliser = Normaliser.fit(known, np.array([[400.0, 1e4, 0.04, 0.9]]), np.array([True]), [])
    network = PseLtae(ClassifierConfig((modality,), CLASSES)).eval()
    made = CropModel(network, normaliser, about={"class_of": {"1": "wheat"}})
    return CropModel.from_checkpoint(made.to_checkpoint())


def of_both_sensors() -> CropModel:
    """Return a classifier whose posterior of wheat goes up and down around 0.45 with views and radar passes."""
    torch.manual_seed(0)
    s2, s1 = ModalityConfig("s2", ("NDVI",), pixels=1), ModalityConfig("s1a", ("VV", "VH"), pixels=1)
    values, days, parcels = np.linspace(0.2, 0.8, 9, dtype=np.float32), np.zeros(9, np.float32), np.zeros(9, np.int64)
    known = {
        one.name: Observations(
            np.repeat(values[:, None, None], len(one.channels), 1), days, parcels, np.full(9, orbit, np.int16)
        )
        for one, orbit in ((s2, 8), (s1, 15))
    }
    normaliser = Normaliser.fit(known, np.array([[400.0, 1e4, 0.04, 0.9]]), np.array([True]), [])
    network = PseLtae(ClassifierConfig((s2, s1), CLASSES)).eval()
    return CropModel(network, normaliser, about={"class_of": {"1": "wheat"}})


@pytest.fixture(scope="module")
def curve() -> Any:
    day, parcel = np.tile(np.arange(0, 360, 6.0), 24), np.repeat(np.arange(24), 60)
    green = 0.2 + 0.6 * np.exp(-(((day - 170) / 50) ** 2))
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), -12 + 4 * green, -20 + 6 * green)
    network = GapConfig(is_causal=False, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2)
    config = GapTrainingConfig(network=network, n_members=1, n_updates=20)
    return fit_gaps(sar, ClearSeries(parcel, day + 1, green), np.arange(24) // 2, config)[0]


@dataclass
class World:
    """A season of wheat: one parcel and its neighbours."""

    dsn: str
    season_key: int
    folder: Path
    settings: MonitorSettings = SETTINGS

    def store(self, names: list[str], days: Mapping[int, float | None], revision: int = 0) -> None:
        """Clear views by day of the season; None withdraws."""
        now = datetime(2025, 12, 1, tzinfo=UTC)
        with engine(self.dsn).begin() as connection:
            rows = []
            keys = []
            for name in names:
                key = connection.execute(
                    sa.text("select parcel_key from parcels where source_id = :n"), {"n": name}
                ).scalar_one()
                for day, ndvi in days.items():
                    observed = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=day)
                    rows.append(
                        dict.fromkeys(S2.arrow.names)
                        | {
                            "collection": "test",
                            "season": "2025",
                            "parcel_id": name,
                            "observed_at": observed,
                            "available_at": observed,
                            "scene_id": f"{day}-{revision}",
                            "platform": "S2A",
                            "relative_orbit": 8,
                            "revision": revision,
                            "is_withdrawn": ndvi is None,
                            "NDVI": ndvi,
                            "n_clear": 0 if ndvi is None else 20,
                        }
                    )
                    keys.append(key)
            observations.insert(connection, "S2", pa.Table.from_pylist(rows, schema=S2.arrow), np.array(keys), now)

    def store_passes(self, names: list[str], day: int) -> None:
        """Passes of the radar."""
        observed = datetime(2025, 1, 1, 6, tzinfo=UTC) + timedelta(days=day)
        row = dict.fromkeys(S1.arrow.names) | {
            "collection": "test",
            "season": "2025",
            "observed_at": observed,
            "available_at": observed,
            "scene_id": f"radar {day}",
            "platform": "S1A",
            "relative_orbit": 15,
            "revision": 0,
            "is_withdrawn": False,
            "VV": 0.1,
            "VH": 0.02,
            "n_pixels": 20,
            "radiometry": "gamma0",
            "direction": "ascending",
        }
        with engine(self.dsn).begin() as connection:
            parcels = connection.execute(sa.text("select source_id, parcel_key from parcels"))
            by_name = {row.source_id: row.parcel_key for row in parcels}
            table = pa.Table.from_pylist([row | {"parcel_id": name} for name in names], schema=S1.arrow)
            keys = np.array([by_name[name] for name in names])
            observations.insert(connection, "S1", table, keys, datetime(2025, 12, 1, tzinfo=UTC))

    def left_out(self, day: int) -> list[Any]:
        """Findings of views that are not stored so, though nothing is pending: what evaluating every parcel always would add."""
        now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day)
        with engine(self.dsn).connect() as connection, connection.begin() as transaction:
            known = connection.execute(sa.text("select distinct parcel_key from findings")).scalars().all()
            work.mark(connection, known, "rules", now)
            claim = work.claim(connection, 1000, now)
            assert claim is not None
            batch = BatchContext.load(connection, claim, now, ActiveModels(self.settings))
            stored = {
                (row["parcel_key"], RULES[row["rule_nr"]]): (VERDICTS[row["verdict_nr"]], row["departed_on"].item())
                for row in alerts.latest_findings(connection, claim.parcel_keys, RULES, VERDICTS)
            }
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    markers, "_may_differ", lambda batch, _before: np.ones(len(batch.claim.parcel_keys), bool)
                )
                classify.classify(batch)
                markers.evaluate(batch, KnownStands())
            transaction.rollback()
        found = [finding for finding, _ in batch.findings if finding.rule != "crop_mismatch"]
        return [
            one for one in found if stored[one.parcel_key, one.rule] != ((one.outcome, one.colour), one.departed_on)
        ]

    def activate(self, task: registry.Task, model: Any) -> None:
        """Activate a model and ask for what it makes, as `models activate` does."""
        now = datetime.now(UTC)
        checkpoint = model.to_checkpoint() if task == "classifier" else season_models.ndvi_checkpoint(model, {}, {})
        with engine(self.dsn).begin() as connection:
            key = season_models.save(connection, task, checkpoint, self.folder / task, now)
            registry.activate(connection, self.season_key, "test", key, now)
            work.mark_season(connection, self.season_key, "test", task, now)

    def count(self, table: str) -> int:
        return int(self.query(f"select count(*) from {table}")[0][0])

    def query(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement.encode()).fetchall()

    def poll(self, day: int = 365) -> Any:
        """The leader and a worker poll, some day of the season."""
        now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day)
        return schedule.once(Worker(self.dsn, self.settings), now)


@pytest.fixture
def world(dsn: str, tmp_path: Path) -> Iterator[World]:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    with engine(dsn).begin() as connection:
        recording.take_the_databases_clock(connection)
        season = ensure_season(connection, "2025", START, date(2025, 12, 31))
        names = ["p", *(f"n{nr}" for nr in range(N_NEIGHBOURS))]
        rows = [ParcelRow(name, "r", None, 1.0, 400.0, 0.9, None, "1", "wheat") for name in names]
        upsert_parcels(connection, "test", season, rows, now, now)
    yield World(dsn, season.season_key, tmp_path)
    engine(dsn).dispose()


def ndvi_on(day: int) -> float:
    return float(0.2 + 0.6 * np.exp(-(((day - 170) / 50) ** 2)))


def test_a_new_classifier_leaves_the_curves_alone_and_the_same_one_writes_nothing(
    world: World, classifier: CropModel, curve: Any
) -> None:
    world.activate("ndvi", curve)
    world.activate("classifier", classifier)
    world.store(["p"], {day: ndvi_on(day) for day in range(0, 200, 5)})
    world.poll()
    before = {table: world.count(table) for table in ("ndvi_daily", "posteriors", "phenology", "findings")}
    assert before["ndvi_daily"] == 196
    assert before["posteriors"] == 40  # one for each acquisition
    world.activate("classifier", classifier)
    assert world.poll().parcels == 1
    world.activate("ndvi", curve)
    assert world.poll().ndvi_days == 0
    assert {table: world.count(table) for table in before} == before


def test_the_course_of_posteriors_is_the_same_after_a_pause(world: World, classifier: CropModel) -> None:
    world.activate("classifier", classifier)
    for day in range(0, 200, 5):
        world.store(["p"], {day: ndvi_on(day)})
        world.poll(day)
    world.store(["n1"], {day: ndvi_on(day) for day in range(0, 200, 5)})
    world.poll()
    courses = {
        name: world.query(f"""select observed_to, n_s2, probabilities from posteriors join parcels using (parcel_key)
                              where source_id = '{name}' order by posteriors.recorded_at""")
        for name in ("p", "n1")
    }
    assert [row[:2] for row in courses["p"]] == [row[:2] for row in courses["n1"]]
    np.testing.assert_allclose([row[2] for row in courses["p"]], [row[2] for row in courses["n1"]], atol=1e-5)
    world.store(["p"], {3: 0.5})  # late: the course since then is another
    world.poll()
    newest = world.query("""select distinct on (observed_to) observed_to, n_s2 from posteriors join parcels using (parcel_key)
                            where source_id = 'p' order by observed_to, posteriors.recorded_at desc""")
    assert [row[1] for row in newest] == list(range(1, 42))


def test_a_broken_model_stops_after_some_parcels_and_loses_nothing(
    world: World, classifier: CropModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.activate("classifier", classifier)
    names = ["p", *(f"n{nr}" for nr in range(N_NEIGHBOURS))]
    world.store(names, {10: 0.3})
    worker = Worker(world.dsn, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("monitor.stages.classify.fold", breaks)
        with pytest.raises(NothingWorks, match="5 parcels of 5 failed, the last: ValueError: nan in the weights"):
            worker.poll(datetime.now(UTC))
    waiting = world.query(
        "select count(distinct parcel_key) filter (where attempts = 0), count(distinct parcel_key) from pending_work"
    )
    assert waiting == [(len(names) - 5, len(names))]
    assert worker.poll(datetime.now(UTC)).parcels == len(names) - 5  # those that were not postponed
    assert worker.poll(datetime.now(UTC) + timedelta(hours=1)).parcels == 5
    assert world.count("pending_work") == 0


def breaks(*_: object) -> None:
    raise ValueError("nan in the weights\nand more")


def test_a_time_out_is_no_server_that_is_away(
    world: World, classifier: CropModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.activate("classifier", classifier)
    world.store(["p"], {10: 0.3})
    worker = Worker(world.dsn, SETTINGS)

    def times_out(batch: BatchContext, *_: object) -> None:
        batch.connection.execute(sa.text("set local statement_timeout = 50"))
        batch.connection.execute(sa.text("select pg_sleep(5)"))

    with monkeypatch.context() as patch:
        patch.setattr("monitor.stages.classify.fold", times_out)
        assert worker.poll(datetime.now(UTC)).postponed == 1
    assert "statement timeout" in world.query("select last_error from pending_work where attempts > 0 limit 1")[0][0]


GREEN_THEN_LOST = {40: 0.3, 60: 0.6, 80: 0.7, 90: 0.72, 100: 0.2, 110: 0.18, 115: 0.2}
STANDING = {5: 0.1, 15: 0.1} | {day: 0.3 + 0.004 * (day - 30) for day in range(40, 145, 5)}


def losses(world: World) -> list[Any]:
    return world.query("""select state::text, colour::text, departed_on::text, confirmed_at is not null, closed_at is not null
                          from alerts where rule = 'early_loss'""")


def test_an_alert_follows_from_what_is_known_however_often_a_monitor_polled(
    world: World, classifier: CropModel
) -> None:
    """One parcel is worked on after each view, its twin once at the end; the neighbours come late to both."""
    world.activate("classifier", classifier)
    for day, ndvi in GREEN_THEN_LOST.items():
        world.store(["p"], {day: ndvi})
        world.poll(day)
    world.store([f"n{nr}" for nr in range(1, N_NEIGHBOURS)], STANDING)
    world.poll(150)
    world.store(["n0"], GREEN_THEN_LOST)
    world.poll(151)
    found = losses(world)
    assert found == [("open", "red", "2025-04-11", True, False)] * 2


def test_an_alert_moves_with_the_views_that_it_rests_on(world: World, classifier: CropModel) -> None:
    world.activate("classifier", classifier)
    world.store([f"n{nr}" for nr in range(N_NEIGHBOURS)], STANDING)
    world.store(["p"], GREEN_THEN_LOST)
    world.poll(150)
    assert losses(world) == [("open", "red", "2025-04-11", True, False)]
    world.store(["p"], {100: None}, revision=1)  # the first bare view was not one
    world.poll(151)
    assert losses(world) == [("open", "yellow", "2025-04-21", False, False)]
    events = world.query("select event, evidence -> 'lost_on' from alert_events order by recorded_at, event")
    assert events[-1] == ("changed", "2025-04-21")
    world.store(["p"], {110: 0.5}, revision=1)  # and neither was the next
    world.poll(152)
    assert [row[-1] for row in losses(world)] == [True]


def decide_on_the_loss(world: World, event: Event) -> None:
    with engine(world.dsn).begin() as connection:
        ((key,),) = world.query("select alert_key from alerts where rule = 'early_loss'")
        decide(connection, key, event, "seen", "anna", datetime(2025, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("decided", "state", "because"), [(None, "closed", "closed"), ("verified", "in_review", "flagged")]
)
def test_an_alert_whose_evidence_is_withdrawn_altogether(
    world: World, classifier: CropModel, decided: Event | None, state: str, because: str
) -> None:
    world.activate("classifier", classifier)
    world.store([f"n{nr}" for nr in range(N_NEIGHBOURS)], STANDING)
    world.store(["p"], GREEN_THEN_LOST)
    world.poll(150)
    if decided:
        decide_on_the_loss(world, decided)
    world.store(["p"], dict.fromkeys([*GREEN_THEN_LOST][:-2]), revision=1)
    world.poll(151)
    assert [row[0] for row in losses(world)] == [state]
    events = world.query(
        "select event, evidence ->> 'because' from alert_events join alerts using (alert_key) "
        "where rule = 'early_loss' order by event_nr"
    )
    assert events[-1] == (because, "evidence withdrawn")


def test_an_alert_recovers_before_it_is_closed(world: World, classifier: CropModel) -> None:
    """One view as declared leaves it yellow, also where departure and view come in one poll; the second closes it."""
    world.activate("classifier", classifier)
    world.store([f"n{nr}" for nr in range(1, N_NEIGHBOURS)], STANDING)
    world.store(["p"], GREEN_THEN_LOST)
    world.poll(150)
    assert [row[1:4] for row in losses(world)] == [("red", "2025-04-11", True)]
    world.store(["p"], {120: 0.6})
    world.store(["n0"], GREEN_THEN_LOST | {120: 0.6})
    world.poll(151)
    assert [row[:4] for row in losses(world)] == [("open", "yellow", "2025-04-11", False)] * 2
    said = world.query("select evidence -> 'recovering' from alerts join findings using (parcel_key, rule, colour)")
    assert said == [({"since": "2025-05-01", "views_needed": 1},)] * 2
    world.store(["p"], {125: 0.7})
    world.poll(152)
    assert sorted(row[0] for row in losses(world)) == ["closed", "open"]


@pytest.mark.parametrize(("decided", "expected"), [("dismissed", ["closed"]), ("closed", ["closed"]), (None, ["open"])])
def test_the_same_departure_alerts_once(
    world: World, classifier: CropModel, decided: Event | None, expected: list[str]
) -> None:
    """What a person settled stays silent when its views come back; what nobody decided on is opened again."""
    world.activate("classifier", classifier)
    world.store([f"n{nr}" for nr in range(N_NEIGHBOURS)], STANDING)
    world.store(["p"], GREEN_THEN_LOST)
    world.poll(150)
    if decided:
        decide_on_the_loss(world, decided)
    world.store(["p"], {110: 0.6, 115: 0.6}, revision=1)
    world.poll(151)
    assert [row[0] for row in losses(world)] == ["closed"]
    world.store(["p"], {110: 0.2, 115: 0.2}, revision=2)
    world.poll(152)
    assert [row[0] for row in losses(world)] == expected
    with engine(world.dsn).connect() as connection:
        for key, current in world.query("select alert_key, state::text from alerts"):
            log = alerts.alert_log(connection, key)
            made = fold(
                Logged("person" if "decision" in row.evidence else "monitor", row.event, row.colour)  # type: ignore[arg-type]
                for row in log
            )
            assert made.state == current


def test_alerts_of_a_batch_are_moved_together(
    world: World, classifier: CropModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many statements for two alerts as for one."""
    asked = []
    move = alert_stage.move

    def counted(batch: BatchContext) -> None:
        count = 0

        def statement(*_: object) -> None:
            nonlocal count
            count += 1

        sa.event.listen(batch.connection, "before_cursor_execute", statement)
        move(batch)
        sa.event.remove(batch.connection, "before_cursor_execute", statement)
        asked.append((batch.n_alert_events, count))

    monkeypatch.setattr(alert_stage, "move", counted)
    world.activate("classifier", classifier)
    world.store([f"n{nr}" for nr in range(1, N_NEIGHBOURS)], STANDING)
    world.store(["p", "n0"], GREEN_THEN_LOST)
    world.poll(150)
    assert len(losses(world)) == 2
    assert sum(n for n, _ in asked) >= 4
    assert max(n for _, n in asked) <= 5  # open and closed alerts; new alerts; first and second events


@pytest.mark.parametrize("seed", range(3))
def test_a_parcel_whose_rules_are_not_evaluated_has_nothing_new(world: World, classifier: CropModel, seed: int) -> None:
    """Views, revisions, radar and new declarations come in any order, with and without the leader."""
    world.activate("classifier", classifier)
    departures = {rule for _, rule in nothing_is_left_out(world, seed)}
    assert departures == {"no_emergence", "early_loss"}


@pytest.mark.parametrize("seed", range(2))
def test_a_doubt_that_begins_or_ends_by_radar_alone_is_followed(world: World, seed: int) -> None:
    """The posterior of the declared crop passes the level up and down, and no mismatch opens."""
    world.activate("classifier", of_both_sensors())
    rules = replace(
        SETTINGS.rules,
        mismatch_declared_below=0.0,
        mismatch_late_declared_below=0.0,
        mismatch_min_observations=3,
        doubt_declared_below=0.452,
        doubt_other_above=0.5,
    )
    world.settings = MonitorSettings(rules=rules)
    departed = nothing_is_left_out(world, seed)
    for day in range(201, 300, 14):  # radar alone
        world.store_passes(["p", *(f"n{nr}" for nr in range(N_NEIGHBOURS))], day)
        world.poll(day)
        assert world.left_out(day) == []
    findings = world.query("""select parcel_key, rule, departed_on is not null, evidence->>'reason' from findings
                              where rule in ('no_emergence', 'early_loss') order by recorded_at""")
    by_parcel = defaultdict(list)
    for parcel, rule, departs, reason in findings:
        is_doubted = "left to crop_mismatch" in (reason or "")
        by_parcel[parcel, rule].append("departs" if departs else "doubted" if is_doubted else "neither")
    pairs = {pair for said in by_parcel.values() for pair in pairwise(said)}
    assert departed
    assert {("doubted", "departs"), ("departs", "doubted")} <= pairs


def nothing_is_left_out(world: World, seed: int) -> set[tuple[int, str]]:
    """Let observations come in any order, and return the departures; each poll must leave what evaluating every parcel would."""
    random, worker = np.random.default_rng(seed), Worker(world.dsn, world.settings)
    names = np.array(["p", *(f"n{nr}" for nr in range(N_NEIGHBOURS))])
    until = {"p": 0, "n0": 110} | {f"n{nr}": 180 for nr in range(1, N_NEIGHBOURS)}
    seen: list[tuple[list[str], int]] = []
    evaluated, departures = 0, set()
    for nr, day in enumerate(range(0, 200, 7)):
        some = names[random.random(len(names)) < (1.0 if day == 0 else 0.7)].tolist()
        for last in (0, 110, 180):
            ndvi = float((0.7 if 60 <= day < last else 0.15) + random.normal() / 20)
            world.store([name for name in some if until[name] == last], {day: ndvi})
        seen.append((some, day))
        if random.random() < 0.5:
            world.store_passes(names[random.random(len(names)) < 0.5].tolist() or ["p"], day)
        if nr % 7 == 3:
            late, then = seen[random.integers(len(seen))]
            world.store(late[:2], {then: None if random.random() < 0.5 else 0.5}, revision=nr)
        now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day)
        if random.random() < 0.7:
            schedule.lead(world.dsn, worker.settings, now)
        evaluated += worker.poll(now).parcels
        assert world.left_out(day) == []
        departures |= set(world.query("select parcel_key, rule from findings where departed_on is not null"))
    assert evaluated > 500
    return departures
