"""Seasons of the benchmark: what teaches, what thresholds are chosen on, what is scored; each simulated with the season before it.

    taught    seed 7, 2022     the classifier learns its declarations
    tuned     seed 8, 2022     the forest learns its events, and every threshold of a peer is chosen
    bounded   seed 9, 2022     the confidence is chosen from which each rule may be red
    scored    seeds 11 to 13, 2023 to 2025     three landscapes and three years of weather; nothing is chosen on them

The rules' other thresholds are the defaults of `RuleSettings`.
"""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from models.classifier.crop_model import CropModel
from monitor.alerts.settings import RuleSettings
from research.bench.alerts import forest
from research.bench.alerts.figures import Judged, events_of, ids_of
from research.bench.alerts.known import Series, observe, optical_only, without_optical_dates
from research.bench.alerts.peers import KINDS, Process, threshold
from research.bench.alerts.posteriors import Courses
from research.bench.alerts.watch import watch
from research.simulator import Season, SimulatorConfig, simulate_season
from training.metrics import Raised

TAUGHT: Final = (2022, 7)
TUNED: Final = (2022, 8)
BOUNDED: Final = (2022, 9)
SCORED: Final = ((2023, 11), (2024, 12), (2025, 13))
PAST_PIXELS: Final = 4
"""Of the season before, of which only mean NDVI is asked."""
LOST_OPTICAL: Final = 0.7
"""Share of the optical dates that a cloudy season loses."""
VARIANTS: Final[Mapping[str, Mapping[str, float]]] = {
    "as it is": {},
    "soils 30 % brighter": {"soil_shift": 0.26},
    "five times the missed cloud": {"missed_cloud": 0.05},
    "passes shifted by 10 m": {"shift_m": 7.0},
    "S1C 1 dB above S1A": {"radar_offset_db": 1.0},
}
"""Assumptions that are varied, each once, with nothing chosen anew: soils between the regions' (0.2 apart in the logarithm); 5 % of
clear pixels, as masks miss (Sen2Cor to 10 %); an error of 10 m in all, one pixel (7 m each way); the radiometric accuracy asked of
Sentinel-1 (1 dB, 3 sigma)."""
VARIED_PARCELS: Final = 2000
FOREST: Final = "random forest"
HAS_NRT: Final = find_spec("nrt") is not None


def config(year: int, seed: int, n_parcels: int) -> SimulatorConfig:
    """Return a season as the benchmark simulates it: two satellites each, one radar orbit a direction, 16 pixels of a set."""
    return SimulatorConfig(year=year, seed=seed, n_parcels=n_parcels, n_pixels=16, s1_orbits=1)


@dataclass(frozen=True)
class Simulated:
    """A season with the one before it, both observed."""

    season: Season
    series: Series
    past: tuple[Season, Series]
    courses: Courses | None
    """Posteriors, where a classifier was given."""

    @classmethod
    def of(cls, asked: SimulatorConfig, model: CropModel | None = None, lost_optical: float = 0.0) -> "Simulated":
        """Simulate a season; the one before it is as it was, without the losses."""
        season, past = (
            simulate_season(one) for one in (asked, replace(asked, year=asked.year - 1, n_pixels=PAST_PIXELS))
        )
        past = optical_only(past)
        if lost_optical:
            season = without_optical_dates(season, lost_optical)
        courses = None if model is None else Courses(model, season)
        series = observe(season, courses.add) if courses is not None else observe(season)
        return cls(season, series, (past, observe(past)), courses)


@dataclass(frozen=True)
class Peers:
    """Peers that were taught and whose thresholds were chosen."""

    forest: Any
    level: forest.Level
    chosen: Mapping[str, Mapping[str, tuple[str, float]]]
    """By peer and by what is asked: the choice of its memory and the threshold."""
    f1_where_chosen: Mapping[str, Mapping[str, float]]

    @classmethod
    def tuned(cls, on: Simulated, settings: RuleSettings) -> "Peers":
        """Teach the forest and choose every threshold on a season."""
        level = forest.levels(on.season, on.series)
        sample = forest.sample(on.season, on.series, level)
        ids, events = ids_of(on.season.truth.parcels), events_of(on.season)
        y, everyone = forest.labels(ids, events, sample.days), np.ones(len(ids), bool)
        half = np.random.default_rng(0).random(len(ids)) < 0.5
        tried = {FOREST: {"": forest.held_out(sample, y, half)}}
        for name, choices in _monitored(on, settings).items():
            tried[name] = {choice: dict.fromkeys(KINDS, process) for choice, process in choices.items()}
        chosen, best = dict[str, dict[str, tuple[str, float]]](), dict[str, dict[str, float]]()
        for name, by_choice in tried.items():
            chosen[name], best[name] = {}, {}
            for what, kinds in KINDS.items():
                found = {choice: threshold(one[what], ids, events, kinds) for choice, one in by_choice.items()}
                choice = max(found, key=lambda one: np.nan_to_num(found[one][1], nan=-1.0))
                chosen[name][what], best[name][what] = (choice, found[choice][0]), found[choice][1]
        return cls(forest.fit(sample, y, everyone), level, chosen, best)

    def raised(self, of: Simulated, settings: RuleSettings) -> dict[str, dict[str, list[Raised]]]:
        """Return the alerts of each peer for each that is asked of it."""
        ids = ids_of(of.season.truth.parcels)
        is_watched = of.season.truth.parcels["is_monitorable"].to_numpy(bool)
        sample = forest.sample(of.season, of.series, self.level)
        asked: dict[str, Mapping[str, Mapping[str, Process]]]
        asked = {FOREST: {"": forest.processes(self.forest, sample, is_watched)}}
        for name, choices in _monitored(of, settings).items():
            asked[name] = {choice: dict.fromkeys(KINDS, process) for choice, process in choices.items()}
        return {
            name: {what: asked[name][choice][what].raised(ids, at) for what, (choice, at) in by_what.items()}
            for name, by_what in self.chosen.items()
        }


def _monitored(of: Simulated, settings: RuleSettings) -> dict[str, dict[str, Process]]:
    """Return the scores of the monitors of `nrt`; nothing where it is not installed."""
    if not HAS_NRT:
        return {}
    from research.bench.alerts import monitors  # compiles for seconds, and asks for the extra

    return monitors.processes(of.season, of.past, of.series, settings)


@dataclass(frozen=True)
class Scored:
    """A season's alerts, those of the rules and those of the peers."""

    judged: Judged
    peers: Mapping[str, Mapping[str, Sequence[Raised]]] = field(default_factory=dict)


def score(asked: SimulatorConfig, model: CropModel, peers: Peers | None, lost_optical: float, name: str) -> Scored:
    """Simulate a season, watch it and let the peers watch it; `name` says on stderr what is being done of which."""
    settings = RuleSettings()
    say(f"{name}: simulated, observed and classified")
    simulated = Simulated.of(asked, model, lost_optical)
    assert simulated.courses is not None
    say(f"{name}: watched, {len(simulated.courses.found)} acquisitions")
    watched = watch(simulated.season, simulated.past, simulated.series, simulated.courses.found, settings)
    say(f"{name}: peers")
    found = {} if peers is None else peers.raised(simulated, settings)
    say(f"{name}: done, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")
    return Scored(Judged.of(simulated.season, watched), found)


def say(what: str) -> None:
    """Print progress."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
