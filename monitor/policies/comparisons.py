"""The rule on drawn fields as the worker and a trial decide it, from what comparisons said of parcels."""

from collections.abc import Mapping

import numpy as np

from db.connect import Connection
from db.markers import MarkerRow
from db.parcels import amended_since
from monitor.alerts.boundaries import boundaries
from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import Found
from monitor.policies.courses import Decided


def compared_with_fields(connection: Connection, keys: Ints, newest: Mapping[int, MarkerRow], before: Found) -> Decided:
    """Decide the rule of the parcels that have a comparison.

    Args:
        keys: (P,) of parcels.
        newest: the comparison that counts, by key.
        before: what was found of the P parcels before.
    """
    places = np.flatnonzero(np.isin(keys, list(newest)))
    rows = [newest[key] for key in keys[places].tolist()]
    is_amended: Bools = np.zeros(0, bool)
    if rows:
        is_amended = amended_since(connection, keys[places], [row.recorded_at for row in rows])
    return places, boundaries(rows, is_amended, before.of(places)), np.ones(len(places), bool)
