"""The steps that need TimescaleDB's community edition, on a build of it that runs in Node: statements, not load.

That build has one connection and no PostGIS: the one geometry column becomes text, its index is left out, and the
scripts of `migrations/sql` run as they are otherwise. Skipped where Node or the package cannot be had.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devstack.folders import cache_folder
from migrations.script import SQL_FOLDER

PACKAGE_FOLDER = Path(__file__).parents[1] / "community"
HYPERTABLES = ("ndvi_months", "pixel_sets", "posteriors", "s1_observations", "s2_observations")
OLDEST_NODE = 20
INSTALL_S, END_S = 120, 60  # chosen: an install of 9 MB and an end take seconds

WITHOUT_POSTGIS = (
    (r"create extension if not exists postgis;\n", ""),
    (r"geometry\(MultiPolygon, 4326\)", "text"),
    (r"create index parcels_geom on parcels using gist \(geom\);\n", ""),
)


class CommunityError(Exception):
    """What the server said to a statement that it refused."""


class Community:
    """A database of the community edition: SQL in, rows out."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, statements: str) -> list[dict[str, Any]]:
        """The rows of the last statement; raises CommunityError."""
        return list(self._answer(statements)["rows"])

    def affected(self, statement: str) -> int:
        """How many rows a statement changed."""
        return int(self._answer(statement)["affected"])

    def script(self, name: str) -> None:
        """Runs `migrations/sql/NAME.sql`."""
        text = (SQL_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
        if name == "0001_foundation.up":
            for pattern, replacement in WITHOUT_POSTGIS:
                text, times = re.subn(pattern, replacement, text)
                assert times == 1, f"{pattern} is there {times} times: the substitution needs a look"
        self.run(text)

    def _answer(self, statements: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(statements) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server ended"
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CommunityError(answer["error"])
        return answer


@pytest.fixture(scope="module")
def program() -> Path:
    """The script that runs the server, installed beside its one package in the cache."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("TimescaleDB's community edition runs in Node: node and npm are not both installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"TimescaleDB's community edition needs Node {OLDEST_NODE}, this is {version}")
    wanted = json.loads((PACKAGE_FOLDER / "package.json").read_text())["dependencies"]
    name, release = next(iter(wanted.items()))
    folder = cache_folder(os.environ, os.geteuid() == 0) / f"community-{release}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in PACKAGE_FOLDER.iterdir():
        shutil.copy(file, folder)
    if not (folder / "node_modules" / name / "package.json").exists():
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if installed.returncode != 0:
            said = (installed.stderr.strip().splitlines() or ["npm said nothing"])[0]
            pytest.skip(f"TimescaleDB's community edition ({name}) cannot be installed: {said}")
    return folder / "query.mjs"


# In the order of migrations; 0010 only adds functions that need PostGIS.
SCRIPTS = (
    "0001_foundation",
    "0002_reading",
    "0003_columnstore",
    "0004_scenes",
    "0005_scene_sources",
    "0006_recording",
    "0007_dead_letter_repeats",
    "0009_scene_corrections",
    "0012_states",
    "0013_newest_progress",
    "0011_ndvi_months",
    "0011_ndvi_months_columnstore",
)


@contextmanager
def migrated(program: Path) -> Iterator[Community]:
    """A new database with the whole schema and 60 days of observations of 20 parcels, every chunk compressed."""
    with subprocess.Popen(["node", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        community = Community(process)
        community.run("begin")  # one transaction, as Alembic does it
        for name in SCRIPTS:
            community.script(f"{name}.up")
        community.run("commit")
        community.run(SEASON)
        for table in HYPERTABLES:
            community.run(f"select compress_chunk(chunk) from show_chunks('{table}') chunk")
        yield community
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(END_S) == 0


SEASON = """
insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
    recorded_at, scene_key, ndvi)
select parcel, at, 8, 0, false, 50, at, at, 1, 0.5
from generate_series(1, 20) parcel, generate_series('2023-03-01'::timestamptz, '2023-04-29', '2 days') at;
insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at,
    recorded_at, scene_key, direction, radiometry, vv, vh)
select parcel_key, observed_at, 88, 0, false, 50, observed_at, observed_at, 1, 'ascending', 'sigma0', 0.1, 0.01
from s2_observations;
insert into pixel_sets (parcel_key, observed_at, sensor, relative_orbit, revision, pixels)
select parcel_key, observed_at, 'S2', 8, 0, '\\x0102' from s2_observations;
insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
select parcel_key, date_trunc('month', observed_at), observed_at, bit, bit, bit, array_fill(ndvi, array[31]), array_fill(0.03, array[31])
from s2_observations, lateral (select 1 << extract(day from observed_at)::int - 1 as bit) day;
insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities)
select parcel_key, observed_at, observed_at, 1, 1, 0, 0, 0, array[0.3, 0.7] from s2_observations
"""


@pytest.fixture(scope="module")
def shared(program: Path) -> Iterator[Community]:
    with migrated(program) as community:
        yield community


@pytest.fixture
def community(shared: Community) -> Iterator[Community]:
    """The shared database within a transaction that is taken back."""
    shared.run("begin")
    yield shared
    shared.run("rollback")


def count(community: Community, table: str) -> int:
    return int(community.run(f"select count(*) as n from {table}")[0]["n"])


def compressed_chunks(community: Community, table: str) -> list[bool]:
    rows = community.run(f"""
        select is_compressed from timescaledb_information.chunks where hypertable_name = '{table}'
        order by range_start""")
    return [row["is_compressed"] for row in rows]


def test_it_is_the_community_edition(community: Community) -> None:
    assert community.run("select current_setting('timescaledb.license') as licence") == [{"licence": "timescale"}]


def test_every_hypertable_compresses_by_parcel(community: Community) -> None:
    for table in HYPERTABLES:
        assert set(compressed_chunks(community, table)) == {True}, table
        assert count(community, table) == 20 * 30
    settings = community.run("""
        select hypertable::text as name, segmentby, orderby from timescaledb_information.hypertable_columnstore_settings
        order by 1""")
    assert [(row["name"], row["segmentby"]) for row in settings] == [(table, "parcel_key") for table in HYPERTABLES]


def test_policies_keep_columnstore_and_retention(community: Community) -> None:
    jobs = community.run("""
        select hypertable_name as name, proc_name, config from timescaledb_information.jobs
        where hypertable_name is not null order by 2, 1""")
    assert [job["name"] for job in jobs if "retention" not in job["proc_name"]] == list(HYPERTABLES)
    (retention,) = [job for job in jobs if "retention" in job["proc_name"]]
    assert retention["name"] == "pixel_sets"
    assert retention["config"]["drop_after"] == "3 years"


LATE = """
insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
    recorded_at, scene_key, ndvi)
values ({parcel}, '{at}', {orbit}, {revision}, {withdrawn}, 9, '{at}', '2023-06-01', 2, {ndvi})
on conflict (parcel_key, observed_at, relative_orbit, revision) do nothing"""


def late(community: Community, at: str, orbit: int, revision: int, withdrawn: bool = False, ndvi: float = 0.9) -> int:
    return community.affected(
        LATE.format(parcel=3, at=at, orbit=orbit, revision=revision, withdrawn=str(withdrawn).lower(), ndvi=ndvi)
    )


def known(community: Community, as_known_at: str = "infinity") -> list[float]:
    rows = community.run(f"""
        select ndvi from s2_known(3, '2023-03-05', '2023-03-09', '{as_known_at}')
        order by observed_at, relative_orbit""")
    return [round(row["ndvi"], 3) for row in rows]


def test_late_rows_and_revisions_go_into_compressed_chunks(community: Community) -> None:
    assert known(community) == [0.5, 0.5]
    assert late(community, "2023-03-06 10:30Z", orbit=51, revision=0) == 1  # a late scene
    assert late(community, "2023-03-07 00:00Z", orbit=8, revision=1, ndvi=0.7) == 1  # a correction
    assert late(community, "2023-03-05 00:00Z", orbit=8, revision=1, withdrawn=True) == 1
    assert set(compressed_chunks(community, "s2_observations")) == {True}
    assert known(community) == [0.9, 0.7]
    assert known(community, "2023-05-31") == [0.5, 0.5]


def test_replays_into_compressed_chunks_change_nothing(community: Community) -> None:
    before = count(community, "s2_observations")
    assert late(community, "2023-03-07 00:00Z", orbit=8, revision=0) == 0  # stored before compression
    assert late(community, "2023-03-06 10:30Z", orbit=51, revision=0) == 1
    assert late(community, "2023-03-06 10:30Z", orbit=51, revision=0, ndvi=0.1) == 0  # stored after it
    assert count(community, "s2_observations") == before + 1
    assert known(community) == [0.5, 0.9, 0.5]
    community.run("select compress_chunk(chunk) from show_chunks('s2_observations') chunk")
    assert known(community) == [0.5, 0.9, 0.5]


LATE_MONTH = """
insert into ndvi_months (parcel_key, month, recorded_at, changed, is_causal, is_observed, ndvi, ndvi_sd)
select 3, '2023-03-01', '2023-06-01', 1 << 6, 0, 0, array_fill(0.7, array[31]), array_fill(0.1, array[31])"""


def test_a_late_version_of_a_month_goes_into_a_compressed_chunk(community: Community) -> None:
    curve = "select ndvi from ndvi_known(3, '2023-03-05', '2023-03-09') order by day"
    before = [round(row["ndvi"], 3) for row in community.run(curve)]
    community.run(LATE_MONTH)
    assert set(compressed_chunks(community, "ndvi_months")) == {True}
    after = [round(row["ndvi"], 3) for row in community.run(curve)]
    assert (before, after) == ([0.5, 0.5], [0.5, 0.7])


def test_a_key_is_refused_twice_in_a_compressed_chunk(community: Community) -> None:
    with pytest.raises(CommunityError, match="duplicate key"):
        community.run("insert into ndvi_months select * from ndvi_months limit 1")


def test_a_staged_batch_goes_into_compressed_chunks_once(community: Community) -> None:
    community.run("create temp table staged as select * from posteriors where parcel_key <= 5")
    community.run("update staged set recorded_at = recorded_at + interval '1 hour' where parcel_key = 1")
    merge = "insert into posteriors select * from staged on conflict do nothing"
    assert [community.affected(merge), community.affected(merge)] == [30, 0]


def test_down_up_with_compressed_chunks_loses_no_row(community: Community) -> None:
    late(community, "2023-03-06 10:30Z", orbit=51, revision=0)
    days = count(community, "ndvi_daily")
    for name in ("0011_ndvi_months.down", "0011_ndvi_months_columnstore.down", "0003_columnstore.down"):
        community.script(name)
    assert count(community, "ndvi_daily") == days == 600
    assert community.run("select * from timescaledb_information.jobs where hypertable_name is not null") == []
    assert not any(compressed_chunks(community, "s2_observations"))
    assert count(community, "s2_observations") == 601
    for name in ("0003_columnstore.up", "0011_ndvi_months.up", "0011_ndvi_months_columnstore.up"):
        community.script(name)
    assert count(community, "ndvi_daily") == days
    community.run("select compress_chunk(chunk) from show_chunks('s2_observations') chunk")
    assert count(community, "s2_observations") == 601


def test_down_to_nothing(community: Community) -> None:
    *before, months, columnstore = SCRIPTS
    for name in (months, columnstore, *reversed(before)):
        community.script(f"{name}.down")
    left = community.run("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'")
    assert left == []


def test_the_policies_do_what_they_are_for(program: Path) -> None:
    with migrated(program) as community:  # of its own: a job commits
        assert late(community, "2023-08-01 10:30Z", orbit=8, revision=0) == 1  # a chunk of its own, not compressed yet
        assert compressed_chunks(community, "s2_observations")[-1] is False
        for job in community.run("""
            select job_id from timescaledb_information.jobs
            where hypertable_name in ('s2_observations', 'pixel_sets')"""):
            community.run(f"call run_job({job['job_id']})")
        assert set(compressed_chunks(community, "s2_observations")) == {True}
        assert count(community, "pixel_sets") == 0  # older than three years
        assert count(community, "s2_observations") == 601
