"""Settings of the rules: what an agency may turn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from monitor.errors import PolicyError

DayOfYear = Annotated[str, Field(pattern=r"^(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")]
"""Month and day, as MM-DD."""


@dataclass(frozen=True)
class RuleSettings:
    """What an agency may turn; the defaults are chosen for few false reds."""

    mismatch_declared_below: float = 0.005
    """Posterior of the declared class below which it is doubted; with the next two chosen on simulated seasons (docs/LOG.md)."""
    mismatch_other_above: float = 0.20
    """Posterior that another class must reach. Which of several others grows is often sure only months after the declared one
    is excluded: 0.90 found fewer wrong declarations, 45 days later."""
    mismatch_late_from: DayOfYear = "07-01"
    """Day of the year (MM-DD) from which, until none confirms, the next two are enough as well: once crops have grown, a classifier that
    learnt from few or wrong declarations is seldom so sure against one, but of another."""
    mismatch_late_declared_below: float = 0.01
    """As `mismatch_declared_below`, late in the season."""
    mismatch_late_other_above: float = 0.90
    """As `mismatch_other_above`, late in the season."""
    mismatch_confirm_days: int = 30
    """A mismatch is confirmed by an observation at least so much later."""
    mismatch_confirm_from: DayOfYear = "05-01"
    """Day of the year (MM-DD) before which no observation confirms a mismatch: bare and wintering fields of all crops look alike."""
    mismatch_confirm_until: DayOfYear = "10-31"
    """And after which none does: the next winter has begun."""
    mismatch_closed_above: float = 0.10
    """A mismatch ends when the declared class is likelier than that, or the likeliest: one wet week must not close it."""
    mismatch_min_observations: int = 20
    """Observations seen before the posterior is trusted; chosen as about two months of both sensors."""
    doubt_declared_below: float = 0.02
    """Posterior of the declared class below which, with the next, no departure from the neighbours is found: what grows may be
    another crop, though not surely enough for a mismatch. Chosen on simulated seasons (docs/LOG.md)."""
    doubt_other_above: float = 0.20
    """Posterior that another class must reach for that."""
    confirm_days: int = 10
    """A departure is confirmed by an observation at least so much later: two S2 cycles, so another cloud field."""
    neighbours_min: int = 8
    """Neighbours of the same declared crop needed to compare with; chosen because a 90 % share needs about ten."""
    standing_share: float = 0.90
    """Share of neighbours with a canopy at which the crop stands in the region."""
    seedbed_share: float = 0.20
    """Share of neighbours with a canopy at or below which the region's fields of the crop lie bare."""
    emergence_grace_days: int = 14
    """Days after the crop stands before a bare parcel departs: sowing within a region spreads over about two weeks."""
    below_neighbours: float = 0.35
    """NDVI below the neighbours' median that counts as bare though weeds grow; the level of vegetation itself."""
    closed_ndvi: float = 0.75
    """Median NDVI of the neighbours from which their canopy is closed; with the next two chosen on simulated seasons (docs/LOG.md)."""
    below_closed: float = 0.25
    """NDVI below that median at which a parcel does not bear the crop but weeds, or a stand so thin that somebody should look."""
    closed_days: int = 20
    """Three clear views over so many days or more must show that, and none that lie in a row the contrary: late fields close later."""
    loss_from_ndvi: float = 0.50
    """A canopy must have been this green before it can be lost: above half cover, so weeds do not count."""
    loss_neighbours_ndvi: float = 0.45
    """Median NDVI of the neighbours below which they ripen, so that a field that ripens first is none that is lost."""
    loss_watch_days: int = 10
    """The neighbours must still stand so long after the loss: else it is the first field of the harvest."""
    harvest_near_days: int = 45
    """So long before last season's harvest, or where that is not known, a loss may be the first field of this one: seasons, and
    fields of a region, differ by some weeks. With the next chosen on simulated seasons (docs/LOG.md)."""
    harvest_watch_days: int = 25
    """The neighbours must still stand so long after such a loss, and the parcel be bare: a region's harvest of a crop takes about
    two weeks, and its fields are seen in about as many again."""
    harvest_margin_days: int = 10
    """A loss so long before the last season's harvest, or later, is harvest: years differ by about ten days."""


def with_thresholds(settings: RuleSettings, given: Sequence[str]) -> RuleSettings:
    """Return settings with some replaced, each given as NAME=VALUE.

    Raises:
        PolicyError: a name that there is not, with the nearest ones, or a value of another kind.
    """
    values = asdict(settings)
    for one in given:
        name, given_as, value = (part.strip() for part in one.partition("="))
        if not given_as:
            raise PolicyError(f"{one!r}: a threshold is given as NAME=VALUE")
        if name not in values:
            near = get_close_matches(name, values, n=3, cutoff=0.5) or sorted(values)
            raise PolicyError(f"{name!r} is no threshold of the rules; the nearest: {', '.join(near)}")
        values[name] = value
        try:
            TypeAdapter(RuleSettings).validate_python(values)
        except ValidationError as error:
            raise PolicyError(f"{name}={value}: {error.errors()[0]['msg']}") from error
    return TypeAdapter(RuleSettings).validate_python(values)
