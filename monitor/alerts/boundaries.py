"""Boundaries: parcels that are farmed apart, or whose edges have moved, by fields drawn from imagery (`parcelwatch parcels compare`).

Never red: who farms a part, and where an edge was agreed, no picture shows; and drawn fields are wrong as often as `MOST` says.
Fields that do not fit a parcel say nothing of it. A comparison with another outline than the parcel has now counts no more.
Shapes: P parcels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from db.markers import MarkerRow
from monitor.alerts.neighbours import Bools
from monitor.alerts.rules import GREEN, NOT_VALID, YELLOW, Case, Decisions, Found, because

MARKER: Final = "boundaries"
MOST: Final = 0.8
"""Confidence at most: the share of such findings that are right (docs/LOG.md, simulated seasons)."""


def boundaries(rows: Sequence[MarkerRow], is_amended: Bools, before: Found) -> Decisions:
    """Decide what the newest comparisons of P parcels come to.

    Args:
        rows: (P,) what the marker says.
        is_amended: (P,) the outline is another one by now.
        before: what was found before; a departure that goes on keeps its day.
    """
    departs = np.array([row.value is not None and row.value > 0 for row in rows], bool)
    days = np.array([row.day for row in rows], "M8[D]")

    def said(nr: int) -> Mapping[str, Any]:
        return rows[nr].evidence

    def confidence(nr: int) -> float:
        return MOST * (rows[nr].confidence or 0.0)

    cases = [
        Case(
            is_amended, NOT_VALID, because("its outline was amended since fields were compared with it: compare anew")
        ),
        Case(np.array([row.status != "OK" for row in rows], bool), NOT_VALID, said),
        Case(departs, YELLOW, said, confidence),
        Case(~departs, GREEN, said, lambda nr: rows[nr].confidence or 0.0),
    ]
    return Decisions(MARKER, cases, np.where(before.verdict >= YELLOW, before.departed_on, days))
