"""Acquisitions of a parcel a second through the whole chain, with the share of each step, and what a later day costs more.

    python -m research.bench.end_to_end [--json] [--parcels 20000] [--days 10] [--monitors 2] [--growth-parcels 2000]

A simulated season with pixel sets of 16 pixels; its first third is stored and worked off, then the scenes of the days that
follow come as Arrow batches: producer, broker, consumer, store, monitor, until posteriors, curves, phenology, findings and alerts
are committed. Consumer and worker take turns in one process, so that the shares add up; the database takes the other core.
The models are those of the demonstration, taught for a moment: what they say differs, what it costs does not.
`growth` is the cost of an acquisition from day 300 on over that from day 60 on, of fewer parcels in stacks of their own.
"""

import json
import multiprocessing
import operator
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import typer
from rich.table import Table

from db import recording, registry, states, statistics, work
from db.connect import engine
from devstack.temporary import temporary_stack
from ingest.stream.consumer import Consumer
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings
from models.checkpoint import Checkpoint
from models.ndvi.training import GapTrainingConfig
from monitor import batch, schedule
from monitor.settings import MonitorSettings
from monitor.stages import (
    alerts,
    classify,
    field_work,
    low_passes,
    markers,
    parts,
    phenology,
    reconstruct_ndvi,
    said,
    vigour,
)
from monitor.worker import Worker
from research.seasons.demo import Part
from research.seasons.season_stream import Chain, import_season, prepare, stream_season
from research.simulator import Season, SimulatorConfig, simulate_season
from terminal.output import console
from training import season_models, stored_season

YEAR, PIXELS = 2025, 16
READY_S = 120.0
"""A process is there after so long at most."""
TAUGHT, WATCHED = "taught", "watched"
"""Collections of the season that the models learn from and of the one that is measured."""
STEPS: tuple[tuple[Any, str, str], ...] = (
    (work, "claim", "claim"),
    (batch.BatchContext, "load", "load"),
    (classify, "classify", "classify"),
    (classify, "save", "save posteriors"),
    (parts, "split_views", "parts"),
    (reconstruct_ndvi, "reconstruct", "reconstruct NDVI"),
    (reconstruct_ndvi, "save", "save NDVI"),
    (states, "save", "save states"),
    (phenology, "date_seasons", "phenology"),
    (phenology, "save", "save phenology"),
    (field_work, "mark", "field work"),
    (vigour, "mark", "vigour"),
    (said, "save", "save field work and vigour"),
    (low_passes, "find", "low passes"),
    (low_passes, "save", "save low passes"),
    (markers, "evaluate", "markers"),
    (alerts, "move", "alerts"),
    (work, "done", "done"),
    (schedule, "lead", "crop progress"),
)
"""Where a step of a batch is called, by which name, and what it is."""


@dataclass
class Timings:
    """Seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, what: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a name."""

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return act(*arguments, **named)
            finally:
                self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun

        return timed

    @contextmanager
    def of_steps(self) -> Iterator[None]:
        """Time the steps of the worker's batches meanwhile."""
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in STEPS]
        for owner, name, what in STEPS:
            act = self.timed(what, getattr(owner, name))
            setattr(owner, name, act if isinstance(owner, ModuleType) else staticmethod(act))
        try:
            yield
        finally:
            for owner, name, act in before:
                setattr(owner, name, act)


@dataclass(frozen=True)
class Measured:
    """What some days of a season cost."""

    acquisitions: int
    seconds: float
    observations: int
    """That went through the classifier: those of rebuilt parcels count again."""
    steps: dict[str, float]
    database: dict[str, float]
    """Rows read, rows written and bytes of WAL."""

    @property
    def rate(self) -> float:
        """Acquisitions of a parcel a second."""
        return self.acquisitions / self.seconds

    @property
    def us(self) -> float | None:
        """Microseconds an acquisition; None where there was none."""
        return round(1e6 / self.rate, 1) if self.acquisitions else None

    @property
    def us_by_step(self) -> dict[str, float]:
        """Microseconds an acquisition, the longest step first."""
        by_step = sorted(self.steps.items(), key=lambda one: -one[1])
        return {name: round(1e6 * seconds / self.acquisitions, 1) for name, seconds in by_step}

    def __add__(self, other: "Measured") -> "Measured":
        """Return what the days of both cost."""
        return Measured(
            self.acquisitions + other.acquisitions,
            self.seconds + other.seconds,
            self.observations + other.observations,
            _sum(self.steps, other.steps),
            _sum(self.database, other.database),
        )


def _sum(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in one | other}


def day_of(season: Season, nr: int) -> datetime:
    """Return the midnight at which a day of the season begins."""
    return datetime(season.starts_on.year, season.starts_on.month, season.starts_on.day, tzinfo=UTC) + timedelta(nr)


def part(season: Season, first: int, last: int) -> Part:
    """Return the season's products that became available from day `first` on and before day `last`."""
    return Part(
        season,
        day_of(season, first),
        day_of(season, last),
        season.name,
        season.starts_on,
        season.ends_on,
        season.parcels,
    )


def config(n_parcels: int, year: int, collection: str) -> SimulatorConfig:
    """Return the demonstration's simulator for so many parcels."""
    return SimulatorConfig(
        year=year, n_parcels=n_parcels, n_pixels=PIXELS, s1_every_d=12, s1_orbits=1, collection=collection
    )


@contextmanager
def opened(settings: MonitorSettings, members: int) -> Iterator[tuple[Chain, dict[registry.Task, int]]]:
    """Start a stack of its own, which is gone afterwards; yield it with models that are taught."""
    with temporary_stack(os.environ, lambda _what, _share: None) as servers:
        prepare(servers.dsn)
        chain = Chain(
            servers.dsn, servers.bootstrap, IngestSettings(topic_prefix="bench"), Worker(servers.dsn, settings)
        )
        yield chain, taught(chain, members)


def taught(chain: Chain, members: int) -> dict[registry.Task, int]:
    """Store a season of 360 parcels and return models that it taught for a moment."""
    season = simulate_season(config(360, YEAR - 1, TAUGHT))
    stored, _ = import_season(chain, season, TAUGHT, day_of(season, 0))
    stream_season(chain, part(season, 0, 430), {TAUGHT: None}, is_watched=False, step_days=60)
    with engine(chain.dsn).begin() as connection, tempfile.TemporaryDirectory() as folder:
        data = stored_season.load(
            connection,
            stored,
            TAUGHT,
            chain.clock.now,
            label_of=lambda one: one.crop_name,
            min_parcels=8,
            pixels=PIXELS,
        )
        classifier = season_models.classifier(data, evaluation_dates=(), epochs=8, seed=1, progress=lambda *_: None)
        curve = GapTrainingConfig(n_members=members, n_updates=60)
        gaps, scores = season_models.ndvi(data, config=curve, progress=lambda *_: None)
        checkpoints: dict[registry.Task, Checkpoint] = {
            "classifier": classifier.to_checkpoint(),
            "ndvi": season_models.ndvi_checkpoint(gaps, scores, season_models.about(data)),
        }
        return {
            task: season_models.save(connection, task, one, Path(folder) / task, chain.clock.now)
            for task, one in checkpoints.items()
        }


def worked_off(
    chain: Chain, season: Season, keys: dict[registry.Task, int], first: int, last: int
) -> tuple[int, float]:
    """Store some days, activate the models and work everything off; return the observations and the seconds of the monitor."""
    collection = season.config.collection
    stored, _ = import_season(chain, season, collection, day_of(season, 0))
    with engine(chain.dsn).begin() as connection:
        for key in keys.values():
            registry.activate(connection, stored.season_key, collection, key, day_of(season, last))
    flow = stream_season(chain, part(season, first, last), {collection: None}, is_watched=False, step_days=10)
    begun = time.perf_counter()
    schedule.once(chain.worker, chain.clock.now)
    return flow.stored, time.perf_counter() - begun


def is_prompt(scene: pa.Table) -> bool:
    """Return whether a scene is of no later revision and came within two days, as nearly all do."""
    observed, available, revision = (scene[name][0].as_py() for name in ("observed_at", "available_at", "revision"))
    return bool(revision == 0 and available - observed < timedelta(days=2))


def measure(
    chain: Chain, season: Season, first: int, last: int, which: Callable[[pa.Table], bool] = lambda _: True
) -> Measured:
    """Send the scenes of some days, day by day, through the chain."""
    timings, collection = Timings(), season.config.collection
    before, n_stored, n_folded = activity_of(chain), 0, 0
    days = [(day, [one.table for one in part(season, day, day + 1).acquisitions()]) for day in range(first, last)]
    with (
        timings.of_steps(),
        ObservationProducer(chain.bootstrap, chain.settings) as producer,
        closing(Consumer(engine(chain.dsn), chain.bootstrap, chain.settings, chain.clock)) as consumer,
    ):
        consumer.catch_up()
        ingest, monitor = timings.timed("ingest", consumer.catch_up), timings.timed("monitor", schedule.once)
        for day, scenes in days:
            chain.clock.now = day_of(season, day + 1) - timedelta(seconds=1)
            for scene in filter(which, scenes):
                assert collection == scene["collection"][0].as_py()
                producer.send(scene)
            producer.flush()
            n_stored += ingest()["stored"]
            n_folded += monitor(chain.worker, chain.clock.now).observations
    after = activity_of(chain)
    whole = timings.seconds.pop("ingest"), timings.seconds.pop("monitor")
    steps = {"ingest": whole[0]} | timings.seconds
    steps["rest of the monitor"] = whole[1] - sum(timings.seconds.values())
    done = {name: after[name] - before[name] for name in after}
    return Measured(n_stored, sum(whole), n_folded, steps, done)


def consume(dsn: str, bootstrap: str, settings: IngestSettings, now: datetime) -> None:
    """Consume until asked to end."""
    stop = threading.Event()
    schedule.stop_on_signals(stop)
    Consumer(engine(dsn), bootstrap, settings, lambda: now).run(stop)


def watch(dsn: str, settings: MonitorSettings, now: datetime, ready: Barrier) -> None:
    """Work off what is pending until asked to end, from when all are there to do it."""
    stop = threading.Event()
    schedule.stop_on_signals(stop)
    torch.set_num_threads(1)
    one = Worker(dsn, settings)
    ready.wait(READY_S)
    while not stop.is_set():
        one.poll(now, stop)
        stop.wait(0.1)


def peak_memory_mb(pid: int) -> float:
    """Return how large a running process was at most, by Linux; the `ru_maxrss` of a child may be that of its parent at the start."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def processes(chain: Chain, settings: MonitorSettings, monitors: int) -> Iterator[dict[str, float]]:
    """Run a consumer and some monitors, as processes of their own; at the end, the peak memory of each kind is put into what is yielded."""
    spawn, now = multiprocessing.get_context("spawn"), chain.clock.now
    running = [spawn.Process(target=consume, args=(chain.dsn, chain.bootstrap, chain.settings, now))]
    ready = spawn.Barrier(monitors + 1)
    running += [spawn.Process(target=watch, args=(chain.dsn, settings, now, ready)) for _ in range(monitors)]
    peaks: dict[str, float] = {}
    for one in running:
        one.start()
    try:
        ready.wait(READY_S)
        yield peaks
        consumer, *others = [peak_memory_mb(one.pid or 0) for one in running]
        peaks |= {"consumer": round(consumer), "monitor": round(max(others))}
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.join(60)


def side_by_side(
    chain: Chain, season: Season, days: tuple[int, int], settings: MonitorSettings, monitors: int
) -> dict[str, Any]:
    """Return the rate and the latency of the scenes of some days; those of the first that has any are sent before, to begin with."""
    # Simulated before the clock runs: what makes the scenes has processors of its own where they are real.
    by_day = [[one.table for one in part(season, day, day + 1).acquisitions()] for day in range(*days)]
    beginning, *measured = [tables for tables in by_day if tables]
    chain.clock.now, collection = day_of(season, days[1]), season.config.collection
    database = engine(chain.dsn)
    with database.begin() as connection:
        recording.take_the_databases_clock(connection)
        expected = statistics.stored(connection)
    sent: dict[datetime, datetime] = {}
    with (
        processes(chain, settings, monitors) as peaks,
        ObservationProducer(chain.bootstrap, chain.settings) as producer,
        database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):

        def pass_through(by_day: Iterable[Sequence[pa.Table]], n_expected: int) -> int:
            for tables in by_day:
                for table in tables:
                    sent.update(dict.fromkeys(pc.unique(table["observed_at"]).to_pylist(), datetime.now(UTC)))
                    producer.send(table)
                    n_expected += table.num_rows
                producer.flush()
                while statistics.stored(connection) < n_expected:  # days in order: sensors have topics of their own
                    time.sleep(0.02)
            while statistics.is_pending(connection, collection):
                time.sleep(0.05)  # of some five seconds: what asks takes its share of two cores
            return n_expected

        expected = pass_through([beginning], expected)
        schedule.lead(chain.dsn, settings, chain.clock.now)
        begun, began_at = time.perf_counter(), datetime.now(UTC)
        n = pass_through(measured, expected) - expected
        seconds = time.perf_counter() - begun
        rows = statistics.recorded_posteriors(connection, began_at)
    latency = np.array([(at - sent[to]).total_seconds() for to, at, _ in rows if to in sent])
    weight = np.array([n for to, _, n in rows if to in sent])
    order = np.argsort(latency)
    p50, p95 = (
        float(latency[order][np.searchsorted(np.cumsum(weight[order]), share * weight.sum())]) for share in (0.5, 0.95)
    )
    return {
        "parcel_acquisitions_per_s": round(n / seconds, 1),
        "latency_p50_s": round(p50, 2),
        "latency_p95_s": round(p95, 2),
        "peak_memory_mb": peaks,
    }


def activity_of(chain: Chain) -> dict[str, float]:
    """Return what the database has done so far."""
    with engine(chain.dsn).connect() as connection:
        return asdict(statistics.activity(connection))


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    parcels: Annotated[int, typer.Option(min=100)] = 20_000,
    days: Annotated[int, typer.Option(min=1, help="Days that are measured.")] = 10,
    growth_parcels: Annotated[int, typer.Option(min=0, help="Parcels for `growth`; 0 leaves it out.")] = 2_000,
    monitors: Annotated[int, typer.Option(min=1, help="Monitors that run side by side.")] = 2,
    members: Annotated[int, typer.Option(min=1, help="Networks of the curve's model.")] = 1,
    batch_parcels: Annotated[int, typer.Option(min=1, help="Parcels of a batch.")] = MonitorSettings().batch,
) -> None:
    """Measure on an embedded stack of its own, which is gone afterwards."""
    torch.set_num_threads(1)
    settings = MonitorSettings(batch=batch_parcels)
    with opened(settings, members) as (chain, keys):
        season = simulate_season(config(parcels, YEAR, WATCHED))
        third = (season.ends_on - season.starts_on).days // 3
        n_rebuilt, rebuilt_s = worked_off(chain, season, keys, 0, third)
        main_run = measure(chain, season, third, third + days)
        # Twice as many: at either end a monitor waits for the others, which is no part of the rate that lasts.
        beside = side_by_side(chain, season, (third + days, third + 3 * days), settings, monitors)
        figures: dict[str, Any] = {
            **beside,
            "peak_memory_mb_of_one_process_and_simulator": round(peak_memory_mb(os.getpid())),
            "acquisitions_per_s_of_one_process": round(main_run.rate, 1),
            "acquisitions": main_run.acquisitions,
            "folded_per_acquisition": round(main_run.observations / main_run.acquisitions, 2),
            "us_by_step": main_run.us_by_step,
            "database_per_acquisition": {
                name: round(n / main_run.acquisitions, 1) for name, n in main_run.database.items()
            },
            "rebuilt_observations_per_s": round(n_rebuilt / rebuilt_s, 1),
        }
    figures |= growth(settings, members, growth_parcels, days) if growth_parcels else {}
    if as_json:
        typer.echo(json.dumps(figures))
        return
    table = Table("what", "figure")
    for what, figure in figures.items():
        for name, value in figure.items() if isinstance(figure, dict) else [("", figure)]:
            table.add_row(f"{what} {name}".strip(), f"{value:,}")
    console.print(table)


def growth(settings: MonitorSettings, members: int, parcels: int, days: int) -> dict[str, Any]:
    """Return the cost of an acquisition around days 60 and 300 of a season of fewer parcels, and their ratio.

    Either is of a stack of its own with a clock of its own. Two days of one and two of the other take turns, so that what else
    the machine does weighs on both alike. Late and revised scenes, of which neither time has many, are measured apart.
    """
    season = simulate_season(config(parcels, YEAR, WATCHED))
    with opened(settings, members) as (early, early_keys), opened(settings, members) as (late, late_keys):
        ways = ((early, early_keys, 60), (late, late_keys, 300))
        for chain, keys, first in ways:
            worked_off(chain, season, keys, 0, first)
        turns = [
            (measure(chain, season, first + nr, first + nr + 2, which), which is is_prompt, first)
            for nr in range(0, 3 * days, 2)
            for chain, _, first in ways
            for which in (is_prompt, lambda scene: not is_prompt(scene))
        ]

    def of(prompt: bool, begin: int) -> Measured:
        return reduce(operator.add, (one for one, is_prompt_, first in turns if (is_prompt_, first) == (prompt, begin)))

    return {
        "growth": round(of(True, 60).rate / of(True, 300).rate, 3),
        **{
            f"us_at_day_{first}": of(True, first).us_by_step
            | {"all": of(True, first).us, "late and revised": of(False, first).us}
            for first in (60, 300)
        },
    }


if __name__ == "__main__":
    typer.run(main)
