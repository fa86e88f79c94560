"""The form of a marker: what it returns of P parcels, and the radar that some of them read beside the clear views.

    status        NOT_EXECUTED (does not apply), NOT_VALID (too little is seen) or OK
    value         a number (P,), in the marker's own unit
    events        what happened when, on which parcel, by which sensors
    confidence    0 to 1, NaN where the status is not OK
    evidence      of one parcel, made only for those that are stored

A marker is a function of arrays: one call for a batch, and a parcel's answer does not depend on the others of the batch.
Views may come in any order; what is NaN was not seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Bools, Days, Ints

Floats = NDArray[np.floating[Any]]
STATUSES: Final = ("NOT_EXECUTED", "NOT_VALID", "OK")
NOT_EXECUTED, NOT_VALID, OK = range(len(STATUSES))
SENSORS: Final = ("optical", "backscatter", "coherence")
"""By which an event is seen; the place is the bit in `Events.seen_by`."""
OPTICAL, BACKSCATTER, COHERENCE = (1 << bit for bit in range(len(SENSORS)))


@dataclass(frozen=True)
class RadarViews:
    """Sentinel-1 views of P parcels."""

    parcel: Ints
    """(N,) place of the parcel among the P."""
    days: Days
    """(N,) datetime64[D]; of coherence the later of the pair's two days."""
    orbit: Ints
    """(N,) relative orbit: backscatter of two orbits is never averaged nor compared."""
    vv_db: Floats
    """(N,) NaN where there is none; so the other three."""
    vh_db: Floats
    coherence_vv: Floats
    coherence_vh: Floats

    @classmethod
    def of_backscatter(cls, parcel: Ints, days: Days, orbit: Ints, vv_db: Floats, vh_db: Floats) -> "RadarViews":
        """Return views without coherence."""
        none = np.full(len(parcel), np.nan)
        return cls(parcel, days, orbit, vv_db, vh_db, none, none)

    def only(self, which: Ints | Bools | slice) -> "RadarViews":
        """Return some of the views."""
        return RadarViews(
            self.parcel[which],
            self.days[which],
            self.orbit[which],
            self.vv_db[which],
            self.vh_db[which],
            self.coherence_vv[which],
            self.coherence_vh[which],
        )


@dataclass(frozen=True)
class Events:
    """E dated events, in order of parcel and day."""

    parcel: Ints
    """(E,) place of the parcel among the P."""
    begin: Days
    """(E,) last day on which it is known not to have happened."""
    end: Days
    """(E,) first day on which it is known to have happened."""
    best: Days
    """(E,) the most likely day."""
    confidence: Floats
    """(E,) 0 to 1."""
    seen_by: Ints
    """(E,) bits of `SENSORS`."""

    def only(self, which: Ints | Bools) -> "Events":
        """Return some of the events."""
        return Events(
            self.parcel[which],
            self.begin[which],
            self.end[which],
            self.best[which],
            self.confidence[which],
            self.seen_by[which],
        )

    def of(self, parcel: int) -> list[dict[str, object]]:
        """Return the events of one parcel as evidence shows them."""
        some = slice(*np.searchsorted(self.parcel, [parcel, parcel + 1]).tolist())
        days = (one[some].astype("M8[D]").tolist() for one in (self.begin, self.end, self.best))
        columns = zip(*days, self.confidence[some].tolist(), self.seen_by[some].tolist(), strict=True)
        return [
            {
                "begin": str(begin),
                "end": str(end),
                "best": str(best),
                "confidence": round(confidence, 3),
                "seen_by": sensors(seen_by),
            }
            for begin, end, best, confidence, seen_by in columns
        ]


@dataclass(frozen=True)
class Marked:
    """What a marker says of P parcels."""

    marker: str
    version: str
    status: Ints
    """(P,) place in `STATUSES`."""
    value: Floats
    """(P,) NaN where the status is not OK."""
    confidence: Floats
    """(P,) NaN where the status is not OK."""
    events: Events
    evidence: Callable[[int], Mapping[str, Any]]
    """Returns the evidence of a parcel, given its place."""


def sensors(seen_by: int) -> list[str]:
    """Return the names of the sensors whose bits are set."""
    return [name for bit, name in enumerate(SENSORS) if seen_by & 1 << bit]
