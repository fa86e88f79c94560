"""Parts of a parcel that differ for a season: another crop on a part, or no vegetation on it.

Never red: pixel sets are samples without places, and a part that differs may be as declared: a headland, a wet hollow, a yard that the
outline should leave out. Who looks at the picture sees which. A part that is cut or tilled for once is no departure: evidence shows it.
Shapes: P parcels.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, YELLOW, Case, Decisions, agreeing, because, unseen
from monitor.markers.optical_cuts import BARE_NDVI
from monitor.markers.parts import (
    LASTING_NDVI,
    LEAST_SHARE,
    LEAST_VIEWS,
    PERSIST_DAYS,
    SEALED_DAYS,
    SEPARATION,
    Parts,
    PixelViews,
    partly_cut,
    sealed,
    two_parts,
)

MOST: Final = 0.5
"""Confidence at most: that there are parts is sure, that one departs is not (chosen: as radar alone in Sen4CAP L4B)."""


def parts(views: PixelViews) -> Decisions:
    """Decide whether P parcels have a part without vegetation, or two parts that differ for long."""
    has_sets, n_seen = views.count(views.split["n"] > 0) > 0, views.count(views.is_seen)
    without, two = sealed(views), two_parts(views)
    is_without, is_two = ~np.isnat(without.since), ~np.isnat(two.since)

    def evidence(kind: str, found: Parts, thresholds: Mapping[str, float]) -> Any:
        def of(nr: int) -> Mapping[str, Any]:
            begin, end = np.searchsorted(views.parcel, [nr, nr + 1])
            seen = begin + np.flatnonzero(views.is_seen[begin:end])
            return {
                "kind": kind,
                "share": round(float(found.share[nr]), 2),
                "since": str(found.since[nr]),
                "n_views": int(found.n[nr]),
                "observed_to": str(views.days[seen[-1]]),
                "views": views.shown(seen[-6:]),
                "cut_in_part": partly_cut(views.of(nr)).evidence(0)["parts"],
                "thresholds": thresholds,
            }

        return of

    cases = [
        Case(~has_sets, NOT_EXECUTED, because("its observations come without pixel sets")),
        Case(n_seen < LEAST_VIEWS, NOT_VALID, unseen(f"fewer than {LEAST_VIEWS} clear views of enough pixels")),
        Case(
            is_without,
            YELLOW,
            evidence(
                "no_vegetation", without, {"bare_ndvi": BARE_NDVI, "days": SEALED_DAYS, "least_share": LEAST_SHARE}
            ),
            _at_most(agreeing(without.n)),
        ),
        Case(
            is_two,
            YELLOW,
            evidence(
                "two_parts",
                two,
                {
                    "apart_ndvi": LASTING_NDVI,
                    "separation": SEPARATION,
                    "days": PERSIST_DAYS,
                    "least_share": LEAST_SHARE,
                },
            ),
            _at_most(agreeing(two.n)),
        ),
        Case(n_seen >= LEAST_VIEWS, GREEN, lambda _: {}),
    ]
    return Decisions("parts", cases, np.where(is_without, without.since, two.since))


def _at_most(confidence: Callable[[int], float]) -> Callable[[int], float]:
    return lambda parcel: MOST * confidence(parcel)
