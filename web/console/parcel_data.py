"""What a parcel's page draws, as known at a time: curves, posteriors, dates, alerts and pictures as JSON; no database here."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, cast

import numpy as np

from db.console import EventSeen, MarkerKnown, Measure, PictureRow, SeenParcel
from db.crop_progress import ProgressRow
from db.history import HistoryRow
from monitor.alerts import evidence
from monitor.alerts.lifecycle import TRANSITIONS, Actor, Event, named, named_decision
from monitor.dekads import dekad_number, dekads_begin
from monitor.inspection.bundle import RULE_TITLES

DEKAD_MIDDLE: Final = np.timedelta64(4, "D")
"""From the first day of a dekad to the one that its quartiles are drawn at."""


def course(
    parcel: SeenParcel,
    rows: Sequence[HistoryRow],
    events: Sequence[EventSeen],
    measures: Sequence[Measure],
    markers: Sequence[MarkerKnown],
    pictures: Sequence[PictureRow],
    band: Mapping[str, Any] | None,
    declared_class: str | None,
) -> dict[str, Any]:
    """Return what is known of a parcel, by kind."""
    of = {kind: [row for row in rows if row.kind == kind] for kind in ("s1", "s2", "ndvi", "posterior", "declaration")}
    return {
        "parcel": {
            "key": parcel.parcel_key,
            "id": parcel.source_id,
            "declared_class": declared_class,
            "declared": of["declaration"][-1].crop if of["declaration"] else None,
            "starts_on": parcel.starts_on,
            "ends_on": parcel.ends_on,
        },
        "recorded": _recorded(rows),
        "ndvi": {
            "day": [_day(row.at) for row in of["ndvi"]],
            "ndvi": [_short(row.ndvi) for row in of["ndvi"]],
            "sd": [_short(row.ndvi_sd) for row in of["ndvi"]],
        },
        "s2": {
            "at": [row.at for row in of["s2"]],
            "ndvi": [_short(row.ndvi) for row in of["s2"]],
            "clear": [_short(row.detail.get("clear_fraction")) for row in of["s2"]],
        },
        "s1": {
            "at": [row.at for row in of["s1"]],
            "vv": [_short(row.vv_db, 2) for row in of["s1"]],
            "vh": [_short(row.vh_db, 2) for row in of["s1"]],
            "orbit": [f"{row.relative_orbit} {row.detail.get('direction') or ''}".strip() for row in of["s1"]],
        },
        "posteriors": _posteriors(of["posterior"]),
        "neighbours": band,
        "phenology": [
            {
                "measure": one.measure,
                "day": one.day,
                "sd": _short(one.sd, 1),
                "value": _short(one.value),
                "unit": one.unit,
            }
            for one in measures
            if one.status == "OK"
        ],
        "markers": [_marker(one) for one in markers],
        "alerts": alerts_of(events),
        "pictures": [{"key": one.chip_key, "at": one.observed_at, **_picture(parcel, one)} for one in pictures],
    }


def band_of(row: ProgressRow) -> dict[str, Any]:
    """Return how parcels of the same crop around stand: the median of each day, and quartiles by dekad."""
    numbers = dekad_number(row.first_day) + np.arange(row.band.shape[1])
    middles = (dekads_begin(numbers) + DEKAD_MIDDLE).tolist()
    lower, middle, upper = ([_short(value) for value in one] for one in row.band)
    return {"n": row.n_parcels, "day": middles, "lower": lower, "middle": middle, "upper": upper}


def alerts_of(rows: Sequence[EventSeen]) -> list[dict[str, Any]]:
    """Return alerts with their logs, the newest first; the state is the fold of the log."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        decision = row.evidence.get("decision")
        alert = found.setdefault(row.alert_key, {"key": row.alert_key, "rule": row.rule, "state": "open", "log": []})
        actor: Actor = "person" if decision else "monitor"
        _, then = TRANSITIONS[actor, cast(Event, row.event)]
        why = evidence.why(row.rule, row.evidence)
        alert |= {
            "title": rule_title(row.rule, row.evidence),
            "state": named(then) if then else alert["state"],
            "colour": row.colour,
            "confidence": _short(row.confidence, 2),
            "departed_on": row.departed_on,
            "why": why,
        }
        entry = {
            "at": row.recorded_at,
            "event": named_decision(row.event) if decision else row.event,
            "by": decision["by"] if decision else "the monitor",
            "why": decision.get("reason") if decision else row.evidence.get("because") or why,
        }
        if alert["log"] and row.event == "changed" and alert["log"][-1]["event"] == "changed":
            alert["log"].pop()  # the newest of several in a row says it all
        alert["log"].append(entry)
    return sorted(found.values(), key=lambda one: -one["key"])


def rule_title(rule: str, found: Mapping[str, Any]) -> str:
    """Return what a rule, or a policy's obligation by its kind, is called by people."""
    return RULE_TITLES.get(rule) or RULE_TITLES.get(str(found.get("kind"))) or rule.replace("_", " ")


def _recorded(rows: Sequence[HistoryRow]) -> dict[str, datetime] | None:
    """Return when the first and the newest of it was recorded: between them it differs by when one asks."""
    times = [row.recorded_at for row in rows]
    return {"first": min(times), "last": max(times)} if times else None


def _posteriors(rows: Sequence[HistoryRow]) -> dict[str, Any]:
    """Return the posteriors of the model that spoke last, each as known then."""
    if not rows:
        return {"classes": [], "at": [], "probabilities": []}
    model = max(rows, key=lambda row: row.recorded_at).detail["model_key"]
    newest = {row.at: row for row in rows if row.detail["model_key"] == model}
    return {
        "classes": next(iter(newest.values())).detail["classes"],
        "at": list(newest),
        "probabilities": [[_short(one) for one in row.detail["probabilities"]] for row in newest.values()],
    }


def _marker(one: MarkerKnown) -> dict[str, Any]:
    events = [
        {
            "begin": event.get("begin"),
            "end": event.get("end"),
            "best": event.get("best"),
            "confidence": event.get("confidence"),
        }
        for event in one.evidence.get("events", ())
    ]
    return {
        "marker": one.marker,
        "says": one.evidence.get("reason") if one.status != "OK" else None,
        "day": one.day,
        "confidence": _short(one.confidence, 2),
        "events": events,
    }


def _picture(parcel: SeenParcel, one: PictureRow) -> dict[str, Any]:
    address = f"/console/data/parcel/{parcel.parcel_key}/pictures/{one.chip_key}"
    return {
        "sensor": one.sensor,
        "composite": one.composite,
        "missing": one.missing,
        "url": None if one.missing else address,
        "bar_m": one.bar_m,
    }


def _day(at: datetime) -> date:
    return at.astimezone(UTC).date()


def _short(value: float | None, digits: int = 3) -> float | None:
    """Return a number as short as it is drawn; None of what is no number."""
    return None if value is None or not np.isfinite(value) else round(float(value), digits)
