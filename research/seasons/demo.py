"""The demonstration: one simulated season teaches the models, the next one streams in day by day and is watched.

    season A ── replayed into the store ──► train classifier and NDVI ── activate ─┐
    season B ── Kafka, store, monitor, day by day ◄──────────────────────────────┘
             └─ what the store says beside the simulator's truth ──► scores, report

Season B begins before season A has ended, so its autumn is only stored; the models take over when A is complete.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import geopandas as gpd
import torch

from db import registry, season_results, work
from db.connect import engine
from db.errors import DatabaseUnavailable
from db.fresh import fresh_database
from db.seasons import Season
from devstack.addresses import ServerSettings
from devstack.errors import FolderUnavailable
from devstack.folders import demonstration_folder
from devstack.temporary import kept_stack, temporary_stack
from ingest.stream.settings import IngestSettings
from models.checkpoint import Checkpoint
from models.ndvi.training import GapTrainingConfig
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.seasons.outcome import COLLECTION, Counted, DemoSettings, Outcome, Run, measure
from research.seasons.replay_source import Acquisition
from research.seasons.season_stream import Chain, Replayed, import_season, prepare, stream_season
from research.simulator import Season as SimulatedSeason
from research.simulator import SimulatorConfig, simulate_season
from terminal.stages import Stages
from training import season_models, stored_season
from training.stored_season import TrainingData

HANDOVER: Final = timedelta(days=14)
"""From season A's last day to the activation of what was learnt of it: its last products arrive within a week."""
STEP_D: Final = 7  # days stored at once where nobody watches


@dataclass(frozen=True)
class Servers:
    """Where the demonstration runs."""

    dsn: str
    bootstrap: str
    topic_prefix: str
    what: str
    is_kept: bool = False
    """Whether `parcelwatch serve --demo` shows the season afterwards."""


@dataclass(frozen=True)
class Part:
    """A season's products of some time only; everything else is the season's."""

    season: SimulatedSeason
    since: datetime | None
    until: datetime | None
    name: str
    starts_on: date
    ends_on: date
    parcels: gpd.GeoDataFrame

    def acquisitions(self) -> Iterator[Acquisition]:
        """Return the acquisitions of the time, in order of availability."""
        return self.season.acquisitions(self.since, self.until)


@contextmanager
def servers(environ: Mapping[str, str], stages: Stages) -> Iterator[Servers]:
    """The servers of the environment, in a database of their own that stays; else embedded ones, stopped at the end.

    What embedded ones hold is kept until the next demonstration; where another one runs, in a folder of its own that goes at the end.

    Raises:
        DatabaseUnavailable: only one of the two addresses is set.
        StackError, NoFreshDatabase: there is none to be had.
    """
    given = ServerSettings()
    prefix = f"demo-{datetime.now(UTC):%Y%m%d%H%M%S}-{secrets.token_hex(2)}"
    if (given.dsn is None) != (given.bootstrap is None):
        raise DatabaseUnavailable("set both PARCELWATCH_DSN and PARCELWATCH_BOOTSTRAP, or neither")
    if given.dsn is not None and given.bootstrap is not None:
        name = f"parcelwatch_{prefix.replace('-', '_')}"
        yield Servers(fresh_database(given.dsn, name), given.bootstrap, prefix, f"database {name}, topics {prefix}.*")
        return
    home = demonstration_folder(environ, os.geteuid() == 0)
    with ExitStack() as held:
        with stages.stage("servers") as bar:

            def progress(what: str, share: float | None) -> None:
                bar.to(share or 0, None if share is None else 1, what)

            try:
                started, is_kept = held.enter_context(kept_stack(home, environ, progress)), True
            except FolderUnavailable:
                started, is_kept = held.enter_context(temporary_stack(environ, progress)), False
        what = "embedded, stopped at the end" if is_kept else "embedded, removed at the end"
        yield Servers(started.dsn, started.bootstrap, prefix, what, is_kept)
    stages.console.print(
        f"embedded servers stopped{f'; what they hold is kept in {home}' if is_kept else ' and removed'}"
    )


def demonstrate(
    where: Servers,
    settings: DemoSettings,
    stages: Stages,
    models_folder: Path,
    subscribe: Callable[[str, datetime], None] = lambda _dsn, _now: None,
) -> Outcome:
    """Run the whole chain and measure it; `subscribe` is called with the database's address before anything is watched."""
    # The networks are small: a second thread gains a third on an idle machine, and waits ten times as long on a busy one
    # (measured: 16 s and 180 s of training). The database and the broker take the other core.
    torch.set_num_threads(1)
    with stages.stage("schema"):
        prepare(where.dsn)
    with stages.stage("simulate"):
        history, season = (simulate_season(_config(settings, year)) for year in (settings.year - 1, settings.year))
    ingest, worker = IngestSettings(topic_prefix=where.topic_prefix), Worker(where.dsn, MonitorSettings())
    chain = Chain(where.dsn, where.bootstrap, ingest, worker)
    with stages.stage("parcels"):
        past, _ = import_season(chain, history, COLLECTION, _midnight(history.starts_on))
        now, imported = import_season(chain, season, COLLECTION, _midnight(season.starts_on))
    subscribe(where.dsn, _midnight(season.starts_on))
    handover = _midnight(history.ends_on + HANDOVER)
    flows = [
        _stream(chain, _part(history, None, None), stages, f"season {history.name}, history", is_watched=False),
        _stream(chain, _part(season, None, handover), stages, f"season {season.name}, autumn", is_watched=False),
    ]
    models = _train(chain, past, now, settings, handover, stages, models_folder)
    flows.append(
        _stream(chain, _part(season, handover, None), stages, f"season {season.name}, watched", is_watched=True)
    )
    with stages.stage("evaluate") as bar, engine(where.dsn).connect() as connection:
        in_tables = sum(
            season_results.count_observations(connection, one.season_key, COLLECTION) for one in (past, now)
        )
        run = Run(
            settings,
            history,
            season,
            past,
            now,
            imported.lineage,
            models,
            handover.date(),
            _counted(flows, in_tables),
            where.what,
            stages.seconds,
        )
        return measure(connection, run, bar)


def _stream(chain: Chain, part: Part, stages: Stages, name: str, *, is_watched: bool) -> tuple[int, Replayed]:
    """Stream a part with a bar that shows the day; return what the simulator says it emitted, and what went through."""
    with stages.stage(name) as bar:
        first: list[date] = []

        def on_day(day: date, replayed: Replayed) -> None:
            first.append(day)
            said = f"{day}  {replayed.stored:,} observations"
            if is_watched:
                said += f", {replayed.work.alert_events} alert events"
            span = max((part.ends_on - first[0]).days, 1)
            bar.to(min((day - first[0]).days, span), span, said)

        step_days = 1 if is_watched else STEP_D
        replayed = stream_season(
            chain, part, {COLLECTION: None}, is_watched=is_watched, step_days=step_days, on_day=on_day
        )
        return sum(entry.emitted for entry in part.season.ledger), replayed


def _counted(flows: list[tuple[int, Replayed]], in_tables: int) -> Counted:
    replayed = [one for _, one in flows]
    return Counted(
        emitted=sum(emitted for emitted, _ in flows),
        sent=sum(one.sent for one in replayed),
        stored=sum(one.stored for one in replayed),
        in_tables=in_tables,
        dead_lettered=sum(one.dead_lettered for one in replayed),
        postponed=sum(one.work.postponed for one in replayed),
    )


def _train(
    chain: Chain, past: Season, now: Season, settings: DemoSettings, at: datetime, stages: Stages, folder: Path
) -> tuple[registry.ModelRow, ...]:
    """Train both models on the season that is over and let them watch the one that runs."""
    dates = tuple(day.replace(year=day.year - 1) for day in settings.scored_on)
    with engine(chain.dsn).begin() as connection, ExitStack() as stack:
        data = stored_season.load(
            connection,
            past,
            COLLECTION,
            at,
            label_of=lambda parcel: parcel.crop_name,
            min_parcels=settings.min_parcels,
            pixels=settings.pixels,
        )
        what = f"{len(data.classes)} crops, {len(data.labels)} parcels"
        curve_config = GapTrainingConfig(n_members=1, n_updates=settings.ndvi_updates, seed=settings.seed)
        # The other model is trained in a process of its own: torch's random numbers are one sequence a process.
        beside = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        curve = beside.submit(_ndvi_checkpoint, data, curve_config)
        with stages.stage("train classifier") as bar:
            model = season_models.classifier(
                data,
                evaluation_dates=dates,
                epochs=settings.epochs,
                seed=settings.seed,
                progress=lambda epoch, of, loss: bar.to(epoch, of, f"{what}, loss {loss:.2f}"),
            )
        with stages.stage("train NDVI, the rest"):
            tasks: tuple[tuple[registry.Task, Checkpoint], ...] = (
                ("classifier", model.to_checkpoint()),
                ("ndvi", curve.result()),
            )
        for task, checkpoint in tasks:
            key = season_models.save(connection, task, checkpoint, folder / checkpoint.model[:12], at)
            registry.activate(connection, now.season_key, COLLECTION, key, at)
            work.mark_season(connection, now.season_key, COLLECTION, task, at)
        return tuple(registry.all_models(connection))


def _ndvi_checkpoint(data: TrainingData, config: GapTrainingConfig) -> Checkpoint:
    """Return the gap filler of a season."""
    torch.set_num_threads(1)
    gaps, scores = season_models.ndvi(data, config=config)
    return season_models.ndvi_checkpoint(gaps, scores, season_models.about(data))


def _config(settings: DemoSettings, year: int) -> SimulatorConfig:
    return SimulatorConfig(
        year=year,
        seed=settings.seed,
        n_parcels=settings.parcels,
        n_pixels=settings.pixels,
        s1_every_d=settings.s1_every_d,
        s1_orbits=1,
        collection=COLLECTION,
    )


def _part(season: SimulatedSeason, since: datetime | None, until: datetime | None) -> Part:
    return Part(season, since, until, season.name, season.starts_on, season.ends_on, season.parcels)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
