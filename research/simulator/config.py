"""The settings of a simulated season."""

from dataclasses import dataclass
from datetime import date

SEASON_MARGIN = ((-1, 9, 1), (0, 10, 31))
"""Default span: 1 September before to 31 October of the harvest year, from rapeseed sown to beet lifted."""


@dataclass(frozen=True)
class SimulatorConfig:
    """What to simulate. The same config gives the same season, byte for byte."""

    year: int = 2025
    """Harvest year: names the season and draws its weather."""
    seed: int = 1
    """Draws the landscape; seasons of the same seed and n_parcels share their fields and rotate their crops."""
    n_parcels: int = 400
    """Fields of the landscape; about 3 % more parcels, for some fields are divided."""
    regions: tuple[str, ...] = ("lowlands", "centre")
    n_pixels: int = 64
    """Pixels in a set, at most."""
    event_rate: float = 1.0
    """Factor on the shares of injected events (events.SHARES); mowing does not depend on it."""
    s1_every_d: int = 6
    """Days between two passes of one S1 orbit: 6 with two satellites, 12 with one."""
    s2_every_d: int = 5
    """Days between two passes of one S2 orbit: 5 with two satellites, 10 with one."""
    s1_orbits: int = 2
    """Relative orbits used per direction."""
    lost: float = 0.03
    """Share of acquisitions that never arrive."""
    missed_cloud: float = 0.01
    """Share of the pixels called clear that are cloud or shadow."""
    soil_shift: float = 0.0
    """Logarithm of the factor on the reflectance of every dry soil: 0.26 is 30 % brighter."""
    shift_m: float = 0.0
    """Standard deviation of the co-registration error of a Sentinel-2 pass in each direction, in observations (rasters have none)."""
    radar_offset_db: float = 0.0
    """By which S1C is calibrated above S1A, in observations (rasters are calibrated alike)."""
    starts_on: date | None = None
    ends_on: date | None = None
    collection: str = "simulated"

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ValueError: a setting is out of range.
        """
        if self.n_pixels < 1:
            raise ValueError(f"n_pixels must be at least 1, got {self.n_pixels}")
        if self.s1_every_d % 6 or self.s1_every_d < 6:
            raise ValueError(f"s1_every_d must be a multiple of 6 days, got {self.s1_every_d}")
        if self.s2_every_d % 5 or self.s2_every_d < 5:
            raise ValueError(f"s2_every_d must be a multiple of 5 days, got {self.s2_every_d}")
        for name in ("lost", "missed_cloud"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("event_rate", "shift_m"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        first, last = self.span
        if not date(self.year - 1, 7, 1) <= first < last <= date(self.year, 12, 31):
            raise ValueError(f"season {first} to {last} must lie between {self.year - 1}-07-01 and {self.year}-12-31")

    @property
    def season(self) -> str:
        """Name of the season: the harvest year."""
        return str(self.year)

    @property
    def span(self) -> tuple[date, date]:
        """First and last day of the season."""
        (dy, m, d), (dy2, m2, d2) = SEASON_MARGIN
        return self.starts_on or date(self.year + dy, m, d), self.ends_on or date(self.year + dy2, m2, d2)
