"""What a demonstration found: settings, counts, scores and the results they are made of."""

import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import pandas as pd

from db.connect import Connection
from db.history import HistoryRow, parcel_history
from db.parcels import Parcel, load_parcels
from db.registry import ModelRow
from db.seasons import Season
from research.seasons import baselines, curve_scores, evaluate
from research.seasons.curve_scores import CurveScores
from research.seasons.evaluate import AlertEvaluation, Watched
from research.seasons.examples import Example, choose
from research.simulator import Season as SimulatedSeason
from research.simulator.crops import CROPS
from terminal.output import Steps
from training.metrics import ClassScores, Pooled, score_classes

COLLECTION: Final = "demo"
GROWN_NAME: Final[Mapping[str, str]] = {crop.hcat_code: crop.name for crop in CROPS}
CURVE_STEP: Final = timedelta(days=10)  # of the accuracy over the season; chosen because a dekad is two S2 cycles


@dataclass(frozen=True)
class DemoSettings:
    """How large the demonstration is; the defaults take about three minutes on two cores."""

    parcels: int = 360
    seed: int = 1
    year: int = 2025
    """Harvest year of the watched season; the models learn from the year before."""
    epochs: int = 45
    ndvi_updates: int = 300
    pixels: int = 16
    s1_every_d: int = 12
    min_parcels: int = 8
    """A crop with fewer declared parcels is not taught; its parcels then count as errors."""
    has_forest: bool = True

    @property
    def scored_on(self) -> tuple[date, ...]:
        """Four dates: before the spring crops are up, all up, cereals cut, all over."""
        return tuple(date(self.year, month, day) for month, day in ((4, 30), (6, 15), (7, 31), (10, 31)))

    def quick(self) -> "DemoSettings":
        """Return a smaller run of the same, for trying out: its scores are worse."""
        return replace(self, parcels=min(self.parcels, 120), epochs=20, ndvi_updates=150, has_forest=False)


@dataclass(frozen=True)
class Counted:
    """Observations on their way: equal numbers mean that nothing was lost and nothing came twice."""

    emitted: int
    """By the simulator, from its own ledger."""
    sent: int
    stored: int
    """As the consumer says."""
    in_tables: int
    """As the tables say, counted at the end."""
    dead_lettered: int
    postponed: int
    """Parcels that the monitor failed on."""

    @property
    def is_complete(self) -> bool:
        """Say whether every observation is stored or accounted for, and every parcel was worked on."""
        is_stored = self.emitted == self.sent == self.stored + self.dead_lettered and self.stored == self.in_tables
        return is_stored and self.postponed == 0


@dataclass(frozen=True)
class Run:
    """What was replayed, by which models, and how long it took."""

    settings: DemoSettings
    history: SimulatedSeason
    """The season that the models learnt from, with its truth."""
    season: SimulatedSeason
    """The season that was watched, with its truth."""
    past: Season
    """The first as it is stored."""
    now: Season
    """The second as it is stored."""
    lineage: int
    """Links from parcels to those of the season before."""
    models: tuple[ModelRow, ...]
    watched_from: date
    counted: Counted
    servers: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """The run and all that was measured of it."""

    run: Run
    watched: Watched
    classes: Mapping[str, Mapping[date, ClassScores]]
    """Method -> date -> scores against the true crop."""
    over_season: Mapping[date, ClassScores]
    """The network's scores every ten days."""
    pools: Mapping[date, Pooled]
    """The network's posteriors beside the true crops, at the scored dates."""
    curves: tuple[CurveScores, ...]
    alerts: AlertEvaluation
    examples: tuple[tuple[Example, Sequence[HistoryRow]], ...]
    lights: Mapping[str, int]


def measure(connection: Connection, run: Run, bar: Steps) -> Outcome:
    """Read a run's results from the store and compare them with the simulator's truth."""
    bar.to(0, 10, "reading results")
    truth, dates = run.season.truth, run.settings.scored_on
    grown = dict(zip(truth.parcels["parcel_id"], truth.parcels["grown"].map(GROWN_NAME), strict=True))
    watched = evaluate.load(connection, run.now, COLLECTION)
    days = [run.watched_from + CURVE_STEP * i for i in range((run.now.ends_on - run.watched_from) // CURVE_STEP + 1)]
    past = load_parcels(connection, run.past, COLLECTION)
    classes = tuple(next(one for one in run.models if one.task == "classifier").config["classes"])
    labels, taught = labelled(watched.parcels, grown), labelled(past, {p.source_id: p.crop_name or "" for p in past})
    taught = taught[taught["label"].isin(classes)]
    every = tuple(sorted({*classes, *labels["label"]}))
    pools = {
        day: evaluate.crops(labels, evaluate.posteriors_on(connection, run.now, COLLECTION, day), taught, every)
        for day in sorted({*days, *dates})
    }
    network = {day: score_classes(pool) for day, pool in pools.items()}
    declared = evaluate.declared_as_posteriors({p.source_id: p.crop_name or "" for p in watched.parcels}, every)
    by_method = {"network": {day: network[day] for day in dates}}
    if run.settings.has_forest:
        by_method["random forest"] = _forest(run, taught, labels, every, bar)
    at_declaration = score_classes(evaluate.crops(labels, declared, taught, every))
    by_method["declared crop"] = dict.fromkeys(dates, at_declaration)
    bar.to(8, 10, "NDVI and alerts")
    alerts = evaluate.alerts(watched, truth.events, grown)
    key_of = {one.source_id: one.parcel_key for one in watched.parcels}
    return Outcome(
        run,
        watched,
        by_method,
        {day: network[day] for day in days},
        {day: pools[day] for day in dates},
        curve_scores.curves(watched, truth.days, dict(zip(truth.parcels["parcel_id"], truth.ndvi, strict=True))),
        alerts,
        tuple(
            (one, parcel_history(connection, key_of[one.parcel_id], None, None, None))
            for one in choose(watched, alerts, truth.events)
        ),
        evaluate.lights(watched),
    )


def labelled(parcels: Sequence[Parcel], names: Mapping[str, str]) -> pd.DataFrame:
    """Return monitorable parcels with a label; all in one fold, since the models were taught another season."""
    watched = [one.source_id for one in parcels if one.is_monitorable]
    return pd.DataFrame({"parcel_id": watched, "label": [names[one] for one in watched], "fold": 0})


def _forest(
    run: Run, taught: pd.DataFrame, labels: pd.DataFrame, classes: tuple[str, ...], bar: Steps
) -> dict[date, ClassScores]:
    """Return the baseline: a random forest taught the same season, with what was available on the same day of that season."""
    bar.to(1, 10, "observations for the random forest")
    past, observed = baselines.observations(run.history), baselines.observations(run.season)
    scores = {}
    for nr, day in enumerate(run.settings.scored_on):
        bar.to(3 + nr, 10, f"random forest as known on {day}")
        training = (past, taught, day.replace(year=day.year - 1))
        known = baselines.forest(observed, labels, day, classes, training=training)
        scores[day] = score_classes(evaluate.crops(labels, known, taught, classes))
    return scores


def versions() -> dict[str, str]:
    """Return what the figures were made with."""
    names = ("parcelwatch", "torch", "numpy", "psycopg", "kafka-python")
    return {"Python": platform.python_version()} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def peak_memory_mb() -> float:
    """Return the largest memory this process had, MB (Linux counts kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
