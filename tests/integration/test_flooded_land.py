"""Floods among neighbours on the real tables: workers find low passes, the leader counts, and the order of both makes no difference."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import observations, policies, recording, work
from db.connect import engine
from db.low_passes import Pass, nearest, seen
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season, season_by_name
from ingest.stream.schemas import S1
from monitor import schedule
from monitor.alerts.settings import RuleSettings
from monitor.policies.policy import Policy
from monitor.policies.revisions import Clock
from monitor.policies.trial import Trial, in_force
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from tests import flooded_land as land

START = datetime(2025, 3, 1, 6, 0, tzinfo=UTC)
FIELDS = land.fields()
IN_HOLLOW = {f"{x}/{y}" for x, y in FIELDS if land.hollow(x, y)}


def on(day: float) -> datetime:
    return START + timedelta(days=day)


class Land:
    """A season of fields that a policy watches."""

    def __init__(self, dsn: str, collection: str = "test") -> None:
        self.dsn, self.collection = dsn, collection
        with engine(dsn).begin() as connection:
            recording.take_the_callers_clock(connection)
            season = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
            self.season_key = season.season_key
            rows = [
                ParcelRow(f"{x}/{y}", "r", None, 1.0, 400.0, 0.9, None, land.crop(x, y), land.crop(x, y))
                for x, y in FIELDS
            ]
            upsert_parcels(connection, collection, season, rows, START, START)
            connection.execute(
                sa.text("""update parcels set geom = ST_Multi(ST_Expand(ST_Point(
                               5 + x * :m / (111320 * cos(radians(52))), 52 + y * :m / 110574, 4326), 0.0002))
                           from (select parcel_key as key, split_part(source_id, '/', 1)::int as x,
                                        split_part(source_id, '/', 2)::int as y from parcels) place where key = parcel_key"""),
                {"m": land.SPACING_M},
            )
            asked = {"name": "p", "version": 1, "paid_alike": [{"name": "c", "classes": ["a", "b"]}]}
            policy = Policy.model_validate(asked)
            self.policy = policy
            content = policy.name, policy.version, policy.hash, policy.content()
            policies.put_in_force(connection, season.season_key, collection, content, "test", "test", START)
            query = sa.text("select source_id, parcel_key from parcels where collection = :collection")
            found = connection.execute(query, {"collection": collection}).all()
        self.key = {row.source_id: row.parcel_key for row in found}

    def arrive(self, day: int, orbit: int, is_low: land.IsLow, some: set[str] | None = None, revision: int = 0) -> None:
        """Store a pass over some fields; as another revision it is withdrawn."""
        db = dict(zip((f"{x}/{y}" for x, y in FIELDS), land.backscatter(is_low, day).tolist(), strict=True))
        rows = [
            dict.fromkeys(S1.arrow.names)
            | {
                "collection": self.collection,
                "season": "2025",
                "parcel_id": name,
                "observed_at": on(day),
                "available_at": on(day),
                "scene_id": f"{self.collection}-{day}-{orbit}-{revision}",
                "platform": "S1A",
                "relative_orbit": orbit,
                "revision": revision,
                "is_withdrawn": revision > 0,
                "VV": None if revision else 10 ** (vv / 10),
                "VH": None if revision else 10 ** (vh / 10),
                "n_pixels": 20,
                "radiometry": "gamma0",
                "direction": "ascending",
            }
            for name, (vv, vh) in db.items()
            if some is None or name in some
        ]
        keys = np.array([self.key[row["parcel_id"]] for row in rows])
        with engine(self.dsn).begin() as connection:
            observations.insert(connection, "S1", pa.Table.from_pylist(rows, S1.arrow), keys, on(day + 60 * revision))

    def rows(self, query: str) -> list[Any]:
        with engine(self.dsn).connect() as connection:
            return [tuple(one) for one in connection.execute(sa.text(query))]

    def found(self) -> dict[str, tuple[Any, ...]]:
        """Return what flooding found last of each field that departs."""
        newest = self.rows(
            f"""select distinct on (source_id) source_id, colour::text, departed_on, confidence, evidence::text
                from findings join parcels using (parcel_key) where rule = 'flooding' and collection = '{self.collection}'
                order by source_id, findings.recorded_at desc"""
        )
        return {name: said for name, *said in newest if said[0] in ("yellow", "red")}


@pytest.fixture
def fields(dsn: str) -> Iterator[Land]:
    yield Land(dsn)
    engine(dsn).dispose()


def settled(made: Land, worker: Worker, now: datetime) -> None:
    schedule.once(worker, now)
    assert made.rows("select * from pending_work") == []
    assert made.rows("select * from moved_passes") == []


def test_a_flood_is_found_by_radar_and_is_over_when_its_passes_are_withdrawn(fields: Land) -> None:
    worker, first = Worker(fields.dsn, MonitorSettings()), dict[str, int]()
    for day, orbit in land.PASSES:
        fields.arrive(day, orbit, land.hollow)
        settled(fields, worker, on(day + 0.5))
        for name in fields.found():
            first.setdefault(name, day)
    found = fields.found()
    assert found.keys() == IN_HOLLOW
    assert set(first.values()) == {30}  # the second pass
    assert {said[1] for said in found.values()} == {on(27).date()}
    assert sum(said[0] == "red" for said in found.values()) >= 4
    opened = fields.rows("select count(*) from alerts where rule = 'flooding' and closed_at is null")
    assert opened == [(len(IN_HOLLOW),)]
    # As it was known: nothing was counted before the first pass, and only flooded fields ever are.
    counted = fields.rows("select min(day), min(recorded_at), count(distinct parcel_key) from low_neighbours")
    assert counted == [(on(27).date(), on(27.5), len(IN_HOLLOW))]

    # Of all but one the passes are withdrawn: no neighbour of that one is known to be low any more.
    for day, orbit in land.PASSES:
        if land.FLOODED_FROM <= day <= land.FLOODED_UNTIL:
            fields.arrive(day, orbit, land.hollow, IN_HOLLOW - {"6/6"}, revision=1)
    settled(fields, worker, on(120))
    assert fields.found() == {}
    assert fields.rows("select count(*) from alerts where rule = 'flooding' and closed_at is null") == [(0,)]
    newest = fields.rows(
        "select distinct on (parcel_key, day) n_low from low_neighbours order by parcel_key, day, recorded_at desc"
    )
    assert set(newest) == {(0,)}


@pytest.mark.parametrize("is_low", [land.campaign, land.dry, land.one_farm, land.alone])
def test_seedbeds_dry_days_and_single_fields_are_no_flood(fields: Land, is_low: land.IsLow) -> None:
    for day, orbit in land.PASSES:
        fields.arrive(day, orbit, is_low)
    settled(fields, Worker(fields.dsn, MonitorSettings()), on(50))
    assert fields.rows("select count(*) > 0 from low_passes where is_low") == [(True,)]
    assert fields.found() == {}
    assert fields.rows("select * from low_neighbours") == []


def test_a_trial_says_day_by_day_what_was_found(fields: Land) -> None:
    worker = Worker(fields.dsn, MonitorSettings())
    for day, orbit in land.PASSES:
        fields.arrive(day, orbit, land.hollow)
        schedule.once(worker, on(day + 0.5))
    days = [on(day).date() for day, _ in land.PASSES]
    with engine(fields.dsn).begin() as connection:
        season, settings = season_by_name(connection, "2025"), RuleSettings()
        clocks: tuple[Clock, Clock] = ("recorded_at", "available_at")
        runs = [Trial(fields.policy, settings, season, "test", days, one).run(connection) for one in clocks]
        recorded, available = ([one for one in run if one.rule == "flooding"] for run in runs)
        found = [one for one in in_force(connection, season, "test", days) if one.rule == "flooding"]
    assert max(one.lights["red"] for one in found) >= 4
    assert recorded == found
    assert available == found  # nothing came late


def day_by_day(made: Land) -> None:
    worker = Worker(made.dsn, MonitorSettings(batch=50))
    for day, orbit in land.PASSES:
        made.arrive(day, orbit, land.hollow)
        schedule.once(worker, on(day + 0.5))


def at_once(made: Land) -> None:
    for day, orbit in land.PASSES:
        made.arrive(day, orbit, land.hollow)
    schedule.once(Worker(made.dsn, MonitorSettings()), on(50))


def late_and_in_parts(made: Land) -> None:
    """Parts of passes in any order, leaders and workers by turns."""
    chance, worker = random.Random(3), Worker(made.dsn, MonitorSettings(batch=30))
    names = sorted(made.key)
    parts = [(one, set(names[nr::3])) for one in land.PASSES for nr in range(3)]
    chance.shuffle(parts)
    for nr, (one, some) in enumerate(parts):
        made.arrive(*one, land.hollow, some)
        now = on(50 + nr / 100)
        if chance.random() < 0.3:
            schedule.lead(made.dsn, worker.settings, now, worker.memory)
        if chance.random() < 0.3:
            worker.batch(now)
    worker.poll(on(60))
    schedule.lead(made.dsn, worker.settings, on(61))  # another process, which remembers nothing
    worker.poll(on(62))


def test_findings_do_not_depend_on_the_order(dsn: str) -> None:
    """Three collections of fields that lie in the same place, as each is the neighbour of its own alone."""
    said = []
    for how in (day_by_day, at_once, late_and_in_parts):
        made = Land(dsn, how.__name__)
        how(made)
        said.append(made.found())
        assert made.rows("select * from moved_passes") == []
    engine(dsn).dispose()
    assert said[0].keys() == IN_HOLLOW
    assert said[0] == said[1] == said[2]


def test_neighbours_are_the_nearest_that_can_be_watched(fields: Land) -> None:
    at = Pass(on(3).date(), land.PASSES[1][1])
    fields.arrive(3, at.relative_orbit, land.hollow, {"0/1", "2/0"})
    fields.arrive(3, 22, land.hollow, {"1/1"})
    with engine(fields.dsn).begin() as connection:
        for name in ("1/0", "3/3"):
            values = {"key": fields.key[name]}
            connection.execute(
                sa.text("update parcels set not_monitorable_reason = 'small' where parcel_key = :key"), values
            )
        asked = np.array([fields.key["0/0"], fields.key["1/0"]])
        near = nearest(connection, asked, 4, 300.0)
        of = {key: name for name, key in fields.key.items()}
        assert [of[key] for key in near["parcel_key"][near["place"] == 0].tolist()] == ["0/1", "1/1", "2/0", "0/2"]
        assert len(near) == 8
        assert len(nearest(connection, asked[:1], 12, 150.0)) == 1
        watched = np.array(list(fields.key.values()))
        assert {of[key] for key in seen(connection, watched, at).tolist()} == {"0/1", "2/0"}
        assert work.watched_seasons(connection, on(3)) == [("2025", "test")]
