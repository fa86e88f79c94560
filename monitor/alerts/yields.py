"""What an inspection of an alert yields, and until when: the order of the inbox.

    expected_ha = confidence x area_ha                   hectares that a visit may be expected to settle
    days_left   = day on which the proof goes - today    NaN: not known
    priority    = 2 where expected_ha >= WORTH_HA and 0 <= days_left <= SOON_DAYS
                  0 where days_left < 0
                  1 else, also where the days are not known

Alerts of the highest priority come first, of one priority those with the most expected hectares. Harvest takes the crop away that was
to be seen and tillage follows it, so the proof goes when the harvest of the neighbours begins: fields of the same declared crop in the
same region. What departed after that is not the crop's: when its proof goes is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import VIEW_AGE_DAYS, Days, Floats, Ints, falls_on, longest_stand
from monitor.alerts.settings import RuleSettings

WORTH_HA: Final = 0.5
"""Expected hectares from which a visit is worth a hurry; chosen, because the way to a smaller field is as long."""
SOON_DAYS: Final = 14
"""Days within which a proof that goes must be seen; chosen as the time in which a visit can be planned."""


@dataclass(frozen=True)
class Harvest:
    """The harvest of one region and declared crop, as its neighbours show or foretell it."""

    begins_on: date | None = None
    """None where it is not known."""
    is_over_on: date | None = None
    """From then on fewer than half of the fields stand; None as long as they do."""


def harvest(
    standing_share: Floats,
    first_day: date,
    earliest: date,
    last_season: date | None,
    today: date,
    settings: RuleSettings,
) -> Harvest:
    """Return the harvest as seen this season, else as of the season before.

    Args:
        standing_share: (D,) share of fields with a canopy from `first_day` on, NaN where it is not known.
        first_day: of the season.
        earliest: day before which nothing of the crop is harvested; an earlier fall is of what stood before it.
        last_season: when the harvest began in the season before, moved to this one; None where that is not known.
        today: the day on which this is asked.
        settings: thresholds.
    """
    known = np.flatnonzero(np.isfinite(standing_share))
    share = standing_share[: known[-1] + 1] if len(known) else standing_share[:0]
    is_seen = len(known) > 0 and (today - first_day).days - len(share) < VIEW_AGE_DAYS
    begin, end = longest_stand(share, (earliest - first_day).days) or (0, 0)
    if np.isfinite(share[begin:end]).any():
        fall = begin + falls_on(share[begin:end], settings)
        begins_on, is_over_on = first_day + timedelta(days=fall), first_day + timedelta(days=end)
        if end < len(share):
            return Harvest(begins_on, is_over_on)
        if fall < end and begins_on >= earliest and is_seen:
            return Harvest(begins_on)
    # A day of last season that is past says nothing where nobody knows whether the fields still stand.
    return Harvest(last_season if last_season is not None and (last_season > today or is_seen) else None)


def days_left(harvests: Sequence[Harvest], group: Ints, departed_on: Days, today: date) -> Floats:
    """Return (N,) days until the proof of alerts goes: 0 any day now, negative since it went, NaN where that is not known.

    Args:
        harvests: (G,) of regions and declared crops.
        group: (N,) places in it.
        departed_on: (N,) day of each departure.
        today: the day on which this is asked.
    """
    begins_on, over_on = (
        np.array([getattr(one, name) for one in harvests] + [None], "M8[D]")[group]
        for name in ("begins_on", "is_over_on")
    )
    left, since = (
        ((day - np.datetime64(today)) / np.timedelta64(1, "D")).astype(np.float32) for day in (begins_on, over_on)
    )
    left = np.where(np.isnan(since), np.maximum(left, 0), np.minimum(since, -1))
    return np.where(departed_on < begins_on, left, np.float32(np.nan)).astype(np.float32)


def expected_ha(confidence: Floats, area_ha: Floats) -> Floats:
    """Return (N,) hectares that inspections may be expected to settle; none where the area is not known."""
    return confidence * np.nan_to_num(area_ha)


def priority(expected: Floats, left: Floats) -> NDArray[np.int8]:
    """Return (N,) 2 first, 1 after these, 0 last, of expected hectares and days left (both (N,))."""
    is_soon = (expected >= WORTH_HA) & (left >= 0) & (left <= SOON_DAYS)
    return np.where(is_soon, 2, np.where(left < 0, 0, 1)).astype(np.int8)


def soonest(left: Floats) -> float:
    """Return the days left of several alerts seen together: until the first proof that is not gone yet goes."""
    if len(ahead := left[left >= 0]):
        return float(ahead.min())
    return float("nan") if np.isnan(left).any() else float(left.max())
