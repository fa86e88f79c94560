"""Drawing a sample of a collection's parcels, as known at a time, and storing it with all that it needs to be drawn again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from db import chips, recording
from db import quality as store
from db.connect import Connection
from db.history import AlertFilter
from db.quality import ItemRow, PopulationRow, SampleRow, StratumRow
from db.seasons import Season
from monitor.alerts.inbox import inbox_of
from monitor.errors import NotFound
from monitor.inspection.arguments import nothing_by
from monitor.quality import sampling
from monitor.quality.sampling import Allocation, Stratum


@dataclass(frozen=True)
class Order:
    """What sample is wanted, by whom and why."""

    season: Season
    collection: str
    by: str
    why: str
    seed: str
    as_known_at: datetime | None = None
    """None: as known now."""
    allocation: Allocation = "proportional"
    confidence: float = 0.95
    half_width: float | None = 0.03
    """Of the interval of the share of wrong lights among all parcels."""
    n: int | None = None
    """A number of parcels in the place of a half-width."""
    minimum: int = 2
    """Parcels of each stratum at least: a variance needs two."""
    n_crops: int = 10
    """Crops with strata of their own."""
    expected_wrong: Mapping[str, float] = field(default_factory=lambda: sampling.EXPECTED_WRONG)
    second_share: float = 0.1
    """Share of the sample that two people review; chosen because agreement needs some dozens of a usual sample."""


@dataclass(frozen=True)
class Drawn:
    """A sample that was stored."""

    sample_key: int
    as_known_at: datetime
    strata: Sequence[StratumRow]
    half_width: float
    """That is to be expected."""

    @property
    def n(self) -> int:
        """Return how many parcels were drawn."""
        return sum(one.n_sampled for one in self.strata)


def draw(connection: Connection, order: Order, now: datetime) -> Drawn:
    """Draw a sample and store it; every later scene is to have pictures of its parcels. The caller commits.

    Raises:
        NotFound: the time lies ahead, or no parcel was stored by then.
    """
    present = recording.present(connection, now)
    at = order.as_known_at or present
    if at > present:
        raise NotFound(f"{at:%Y-%m-%d %H:%M} UTC lies ahead: what is known then cannot be sampled yet")
    recording.settle(connection, at)
    parcels = store.population(connection, order.season.season_key, order.collection, at)
    if not parcels:
        raise nothing_by(connection, order.season, order.collection, at)
    of = sampling.strata([one.light for one in parcels], [one.declared_crop for one in parcels], order.n_crops)
    counts = Counter(of)
    names = sorted(counts, key=lambda one: (one[0], one[1] is None, one[1] or ""))
    sizes = np.array([counts[one] for one in names], np.int64)
    wrong = np.array([order.expected_wrong[light] for light, _ in names])
    n = order.n or sampling.size(sizes, wrong, order.half_width or 1.0, order.confidence, order.allocation)
    drawn = sampling.allocate(sizes, wrong, min(n, len(parcels)), order.allocation, order.minimum)
    places = sampling.draw(
        [one.source_id for one in parcels], of, dict(zip(names, drawn.tolist(), strict=True)), order.seed
    )
    area = Counter[Stratum]()
    for one, stratum in zip(parcels, of, strict=True):
        area[stratum] += one.area_ha  # type: ignore[assignment]  # counts hectares
    strata = [
        StratumRow(nr, light, crop, int(size), int(n_sampled), float(area[light, crop]))
        for nr, ((light, crop), size, n_sampled) in enumerate(zip(names, sizes, drawn, strict=True))
    ]
    rank = _inbox(connection, order, at)
    number = {stratum: nr for nr, stratum in enumerate(names)}
    chosen = [(parcels[place], number[of[place]]) for place in places]
    items = _items(chosen, rank, order.second_share)
    wanted = None if order.n else order.half_width
    row = SampleRow(
        order.season.season_key,
        order.collection,
        at,
        order.by,
        order.why,
        order.seed,
        order.allocation,
        order.minimum,
        order.expected_wrong,
        order.confidence,
        wanted,
        order.second_share,
    )
    key = store.save(connection, row, strata, items, now)
    chips.sample(connection, [one.parcel_key for one in items], now)
    return Drawn(key, at, strata, sampling.half_width(sizes, wrong, drawn, order.confidence))


def _items(chosen: Sequence[tuple[PopulationRow, int]], rank: Mapping[int, int], second_share: float) -> list[ItemRow]:
    """Return the parcels of a sample, numbered in their random order; the first of them have two reviewers."""
    n_second = round(second_share * len(chosen))
    return [
        ItemRow(
            item=item,
            parcel_key=one.parcel_key,
            stratum_nr=stratum_nr,
            declared_crop=one.declared_crop,
            light=one.light,
            lights=one.lights,
            inbox_rank=rank.get(one.parcel_key),
            n_reviewers=2 if item <= n_second else 1,
        )
        for item, (one, stratum_nr) in enumerate(chosen, 1)
    ]


def _inbox(connection: Connection, order: Order, at: datetime) -> dict[int, int]:
    """Return as which inspection each parcel comes up in the list of alerts in its usual order, as known at a time."""
    listed = inbox_of(connection, AlertFilter(order.season.name, order.collection), at, at, with_members=True)
    rank: dict[int, int] = {}
    for parcel_key in listed.parcel_keys.tolist():
        rank.setdefault(parcel_key, len(rank) + 1)
    return rank
