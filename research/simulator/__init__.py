"""A season simulator with known truth: `simulate_season(SimulatorConfig(...))` gives a `Season` to replay."""

from research.simulator.config import SimulatorConfig
from research.simulator.season import Acquisition, LedgerEntry, Season, simulate_season
from research.simulator.tables import S1_SCHEMA, S2_SCHEMA
from research.simulator.truth import Truth

__all__ = [
    "S1_SCHEMA",
    "S2_SCHEMA",
    "Acquisition",
    "LedgerEntry",
    "Season",
    "SimulatorConfig",
    "Truth",
    "simulate_season",
]
