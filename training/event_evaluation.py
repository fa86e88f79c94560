"""Dated events found by a marker beside those that people recorded: what `parcelwatch evaluate events` prints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from monitor.markers.clear_views import OrderedViews, ordered
from monitor.markers.form import OK, Marked, sensors
from terminal.output import console, table
from training.errors import EventTableError
from training.event_kinds import MARKERS
from training.event_scores import EventScores, Match, matches, total
from training.event_tables import DatedEvents, EventSeries, read_events, read_series

BASELINE_FALL: Final = 0.15
"""A plain rule beside the marker: NDVI falls by more from one clear view to the next (the mean fall of 10,000 events)."""


@dataclass(frozen=True)
class Evaluated:
    """Found events beside true ones, by parcel."""

    scores: EventScores
    baseline: EventScores
    truth: list[NDArray[np.int64]]
    """Of each parcel the first days of its true events."""
    found: Marked
    pairs: list[list[Match]]
    elsewhere: int
    """True events of parcels that are not in the series: they are not scored."""


def report(series: Path, events: Path, kind: str, tolerance_days: int, *, as_json: bool) -> None:
    """Find dated events in a series, score them against recorded ones and print the scores. Raises EventTableError."""
    known, truth = read_series(series), read_events(events, kind)
    result = evaluate(known, truth, kind, tolerance_days)
    if not sum(map(len, result.truth)) and result.elsewhere:
        raise EventTableError(f"{events}: no parcel_id is one of {series}; do they belong together?")
    if as_json:
        typer.echo(json.dumps(_summary(known, result, kind, tolerance_days), allow_nan=False))
        return
    headers = ("parcel", "status", "true", "found", "seen by", "confidence", "error, days")
    console.print(table(headers, _rows(known, result), title=f"{kind} within {tolerance_days} days"))
    for name, scores in (("marker", result.scores), (f"fall > {BASELINE_FALL}", result.baseline)):
        console.print(f"{name}: {_sentence(scores)}", markup=False)


def evaluate(known: EventSeries, truth: DatedEvents, kind: str, tolerance_days: int) -> Evaluated:
    """Return what the marker of a kind finds beside the truth; a parcel without a true event had none."""
    marked = MARKERS[kind](known.views, known.radar)
    n_parcels, place = len(known.parcel_ids), {one: nr for nr, one in enumerate(known.parcel_ids)}
    parcel = np.array([place.get(one, -1) for one in truth.parcel_ids], np.int64)
    views = ordered(known.views.parcel, known.views.days, known.views.ndvi, n_parcels)
    begins, ends = (_split(parcel, one.astype(np.int64), n_parcels) for one in (truth.begin, truth.end))
    found = _split(marked.events.parcel, marked.events.best.astype(np.int64), n_parcels)
    plain = _split(*plain_falls(views), n_parcels)
    pairs, plain_pairs = (
        [matches(*one, tolerance_days) for one in zip(begins, ends, of, strict=True)] for of in (found, plain)
    )
    scores, baseline = (
        total([(len(true), len(ours), one) for true, ours, one in zip(begins, of, matched, strict=True)])
        for of, matched in ((found, pairs), (plain, plain_pairs))
    )
    return Evaluated(scores, baseline, begins, marked, pairs, int((parcel < 0).sum()))


def _split(parcel: NDArray[np.int64], values: NDArray[np.int64], n_parcels: int) -> list[NDArray[np.int64]]:
    """Return the values of each parcel in their order; parcel -1 is none."""
    order = np.argsort(parcel, kind="stable")
    edges = np.searchsorted(parcel[order], np.arange(n_parcels + 1))
    return np.split(values[order], edges)[1:-1]


def plain_falls(views: OrderedViews) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return parcels and days (the middle between both views) at which NDVI falls by more than `BASELINE_FALL`."""
    falls = (views.parcel[1:] == views.parcel[:-1]) & (views.ndvi[:-1] - views.ndvi[1:] > BASELINE_FALL)
    return views.parcel[1:][falls], ((views.day[1:] + views.day[:-1]) // 2)[falls]


def _summary(known: EventSeries, result: Evaluated, kind: str, tolerance_days: int) -> Mapping[str, Any]:
    years = (known.last - known.first).astype(np.int64) // 365 + 1
    return {
        "kind": kind,
        "tolerance_days": tolerance_days,
        **result.scores.as_json(),
        "parcels": len(known.parcel_ids),
        "parcel_years": int(years.sum()),
        "parcels_not_valid": int((result.found.status != OK).sum()),
        "events_without_series": result.elsewhere,
        "marker_version": result.found.version,
        "baseline": {"rule": f"NDVI falls by more than {BASELINE_FALL}", **result.baseline.as_json()},
    }


def _rows(known: EventSeries, result: Evaluated) -> list[tuple[str, ...]]:
    """Return a row for each parcel."""
    rows, found = list[tuple[str, ...]](), result.found.events
    edges = np.searchsorted(found.parcel, np.arange(len(known.parcel_ids) + 1))
    for nr, name in enumerate(known.parcel_ids):
        mine = slice(*edges[nr : nr + 2])
        errors = {one.found: f"{one.error:+d}" for one in result.pairs[nr]}
        rows.append(
            (
                str(name),
                "seen" if result.found.status[nr] == OK else "too little seen",
                _lines(np.sort(result.truth[nr]).astype("M8[D]")),
                _lines(found.best[mine]),
                _lines("+".join(sensors(int(one))) for one in found.seen_by[mine]),
                _lines(f"{one:.2f}" for one in found.confidence[mine]),
                _lines(errors.get(one, "-") for one in range(mine.stop - mine.start)),
            )
        )
    return rows


def _lines(of: Any) -> str:
    return ", ".join(map(str, of))


def _sentence(scores: EventScores) -> str:
    def shown(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        f"precision {shown(scores.precision)}, recall {shown(scores.recall)}, F1 {shown(scores.f1)}, "
        f"{shown(scores.mean_absolute_day_error, 1)} days off in the mean; "
        f"{scores.events} true events, {scores.found} found, {scores.matched} matched"
    )
