"""A parcel beside its own past seasons: the norm is found once of each parcel and season, and compared with once a dekad.

    norm   stored (parcel_norms)  ── or found ──  predecessors by lineage, their clear views, greenest by dekad

Only grassland and permanent crops stay on their ground; of all others nothing is read. What is stored late of a past season changes no norm
that was found; a new lineage (parcel import) takes the norms away.
"""

from collections.abc import Sequence
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import past_seasons as store
from db.crop_progress import clear_views
from db.past_seasons import Norms, Predecessor
from db.series import Keys
from monitor.alerts.neighbours import Ints
from monitor.batch import BatchContext
from monitor.dekads import dekad_number, dekad_numbers
from monitor.markers.bands import greenest
from monitor.markers.form import Marked
from monitor.markers.own_past import MOST_SEASONS, crop_group, norms, own_past

LEAST_SHARE: Final = 0.8
"""Of a parcel that must lie on a predecessor: with less, the view of the one is in part of other ground."""


def compared(batch: BatchContext, due: Ints, green: NDArray[np.float32], n_known: Ints) -> Marked:
    """Return what is said of the due parcels, given their greenest views (P, K)."""
    groups = [crop_group(batch.parcels.hcat_code[nr]) for nr in due.tolist()]
    some = np.array([nr for nr, group in enumerate(groups) if group is not None], np.int64)
    middle, sd = np.full((2, *green.shape), np.nan, np.float32)
    if len(some):
        stays = [group for group in groups if group is not None]
        found = _norms(batch, batch.claim.parcel_keys[due[some]], stays, green.shape[1])
        middle[some], sd[some] = found.middle, found.sd
    return own_past(green, middle, sd, n_known, dekad_number(batch.season.starts_on), groups)


def _norms(batch: BatchContext, keys: Keys, groups: Sequence[str], n_dekads: int) -> Norms:
    """Return the norms of parcels, found and stored where they are not."""
    norm = store.norms(batch.connection, keys, groups, n_dekads)
    lacking = np.flatnonzero(norm.n_seasons < 0)
    if len(lacking):
        of = [groups[nr] for nr in lacking.tolist()]
        past = _past(batch, keys[lacking], of, n_dekads)
        norm.middle[lacking], norm.sd[lacking] = norms(past)
        norm.n_seasons[lacking] = np.isfinite(past).any(axis=2).sum(axis=0)
        new = Norms(norm.n_seasons[lacking], norm.middle[lacking], norm.sd[lacking])
        store.save(batch.connection, keys[lacking], of, new, batch.now)
    return norm


def _past(batch: BatchContext, keys: Keys, groups: Sequence[str], n_dekads: int) -> NDArray[np.float32]:
    """Return (Y, P, K) the greenest views on the parcels' ground in past seasons, under the same crop group."""
    seasons = dict[tuple[date, date], list[Predecessor]]()
    for one in store.predecessors(batch.connection, keys, LEAST_SHARE, MOST_SEASONS):
        if crop_group(one.hcat_code) == groups[one.place]:
            seasons.setdefault((one.starts_on, one.ends_on), []).append(one)
    year, first = batch.season.harvest_year, dekad_number(batch.season.starts_on)
    past = np.full((max(len(seasons), 1), len(keys), n_dekads), np.nan, np.float32)
    for nr, ((starts_on, ends_on), some) in enumerate(seasons.items()):
        parcels, place = np.array([one.parcel_key for one in some]), np.array([one.place for one in some])
        views = clear_views(batch.connection, parcels, starts_on, ends_on, 0)
        then = (starts_on + (ends_on - starts_on) // 2).year
        dekad = dekad_numbers(np.datetime64(starts_on) + views["day"].astype("m8[D]")) + 36 * (year - then) - first
        past[nr] = greenest(place[views["parcel"]], dekad, views["ndvi"], past.shape[1:])
    return past
