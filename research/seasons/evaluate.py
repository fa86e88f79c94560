"""A watched season measured against what truly happened: what the store says beside the simulator's truth.

crops   posteriors as known on a date beside the crop that truly grew; a declaration is scored like a classifier
alerts  against injected events, as opened and as confirmed; each case by name
light   each parcel's worst colour of its newest findings
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from db import alerts as findings_store
from db import season_results
from db.connect import Connection
from db.history import HistoryRow, parcel_history
from db.parcels import Parcel, load_parcels
from db.season_results import RaisedAlertRow
from db.seasons import Season
from db.series import s2_series
from monitor.alerts.evidence import why
from monitor.alerts.rules import RULES, VERDICTS
from research.seasons.replay_source import known_by
from training.metrics import AlertScores, Event, Pooled, Raised, pooled, score_alerts

Floats = NDArray[np.float64]
Labels = pd.DataFrame

ANSWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "crop_mismatch": ("wrong_declaration",),
    "no_emergence": ("no_emergence",),
    "early_loss": ("early_loss", "flood", "grassland_ploughed"),
    "flooding": ("flood",),
    "parts": (),
    "boundaries": (),
}
"""Which kinds of event each rule is meant to find. Mowing is management: no rule may answer it. Simulated fields have no
parts, and are declared as they lie."""
ANSWERING: Final = tuple(rule for rule, kinds in ANSWERS.items() if kinds)
"""Rules that answer some event."""
LIGHTS: Final = ("green", "yellow", "red", "not assessed", "not monitorable")
Z_95: Final = 1.96  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class Watched:
    """What the store says of a season that was replayed and watched."""

    season: Season
    parcels: Sequence[Parcel]
    """All of them, also those that are not monitorable."""
    causal: NDArray[np.void]
    """Daily NDVI as it was known on the day."""
    final: NDArray[np.void]
    """Daily NDVI as known at the end."""
    views: NDArray[np.void]
    """Clear views, newest revisions, sorted by parcel and time."""
    alerts: Sequence[RaisedAlertRow]
    histories: Mapping[str, Sequence[HistoryRow]]
    """Of the parcels that had an alert, by source id."""
    lights: Mapping[str, str]
    """One of LIGHTS of each parcel, by source id."""


@dataclass(frozen=True)
class Case:
    """An alert beside what truly happened on its parcel."""

    parcel_id: str
    declared: str
    grown: str
    rule: str
    opened_on: date
    confirmed_on: date | None
    closed_on: date | None
    truth: str
    """The event that explains the alert, or what else happened on the parcel, or "nothing"."""
    verdict: str
    """"right", "other event" (a departure was there, but of a kind this rule is not meant for) or "false"."""
    why: str


@dataclass(frozen=True)
class Missed:
    """An event that no alert answered."""

    parcel_id: str
    crop: str
    kind: str
    happened_on: date


@dataclass(frozen=True)
class AlertEvaluation:
    """Alerts against events: scores, and every case by name."""

    opened: AlertScores
    confirmed: AlertScores
    cases: tuple[Case, ...]
    missed: tuple[Missed, ...]
    unobserved_events: int
    """Events on parcels that are not monitorable: not asked for."""

    def on_troubled(self, *, confirmed: bool) -> float:
        """Return share of alerts on parcels where something had gone wrong, of whatever kind; NaN without alerts."""
        asked = [case for case in self.cases if case.confirmed_on is not None or not confirmed]
        return sum(case.verdict != "false" for case in asked) / len(asked) if asked else float("nan")


def load(connection: Connection, season: Season, collection: str) -> Watched:
    """Read a season's results from the store, as known now."""
    parcels = load_parcels(connection, season, collection)
    keys = np.array([one.parcel_key for one in parcels], np.int64)
    key_of = {one.source_id: one.parcel_key for one in parcels}
    views = s2_series(connection, keys, known_by(season.ends_on + timedelta(days=365)))
    alerts = season_results.alerts(connection, season.season_key, collection)
    colours: dict[int, list[str]] = {}
    for finding in findings_store.latest_findings(connection, keys, RULES, VERDICTS):
        if (colour := VERDICTS[finding["verdict_nr"]][1]) is not None:
            colours.setdefault(int(finding["parcel_key"]), []).append(colour)
    return Watched(
        season,
        parcels,
        season_results.ndvi(connection, season.season_key, collection, "causal"),
        season_results.ndvi(connection, season.season_key, collection, None),
        views[np.isfinite(views["ndvi"])],
        alerts,
        {
            one: parcel_history(connection, key_of[one], None, None, None)
            for one in sorted({a.source_id for a in alerts})
        },
        {p.source_id: light(p.is_monitorable, colours.get(p.parcel_key, ())) for p in parcels},
    )


def posteriors_on(connection: Connection, season: Season, collection: str, day: date) -> pd.DataFrame:
    """Return posteriors as known at the end of a day: index parcel_id, a column per class."""
    known = season_results.posteriors(connection, season.season_key, collection, known_by(day))
    return pd.DataFrame(known.probabilities, index=known.source_ids, columns=list(known.classes))


def light(is_monitorable: bool, colours: Sequence[str]) -> str:
    """Return a parcel's traffic light: the worst colour of its findings."""
    if not is_monitorable:
        return "not monitorable"
    return max(colours, key=LIGHTS.index) if colours else "not assessed"


def crops(labels: Labels, posteriors: pd.DataFrame, taught: Labels, classes: Sequence[str]) -> Pooled:
    """Return posteriors beside the true crops; a crop that no model was taught has probability 0.

    Args:
        labels: parcel_id, label (the true crop), fold.
        posteriors: index parcel_id, a column per class of the model.
        taught: the labels that the model learnt from.
        classes: every crop of the labels and of the model.
    """
    known = posteriors.reindex(columns=list(classes), fill_value=0.0)
    return pooled(labels, known, classes, taught)


def declared_as_posteriors(declared: Mapping[str, str], classes: Sequence[str]) -> pd.DataFrame:
    """Return the declaration as if it were a classifier: all on the declared crop."""
    rows = np.array([[float(crop == one) for one in classes] for crop in declared.values()])
    return pd.DataFrame(rows.reshape(len(declared), len(classes)), index=list(declared), columns=list(classes))


def alerts(watched: Watched, events: pd.DataFrame, grown: Mapping[str, str]) -> AlertEvaluation:
    """Return alerts beside injected events.

    Args:
        events: parcel_id, kind, day.
        grown: name of the crop that truly grew, by parcel id.
    """
    by_id = {one.source_id: one for one in watched.parcels if one.is_monitorable}
    happened = [Event(str(e.parcel_id), str(e.kind), pd.Timestamp(str(e.day)).date()) for e in events.itertuples()]
    asked = [one for one in happened if one.parcel_id in by_id]
    opened = [Raised(a.source_id, a.rule, a.opened_at.date()) for a in watched.alerts]
    confirmed = [
        Raised(a.source_id, a.rule, a.confirmed_at.date()) for a in watched.alerts if a.confirmed_at is not None
    ]
    answerable = {kind for kinds in ANSWERS.values() for kind in kinds}
    missed = [
        Missed(e.parcel_id, by_id[e.parcel_id].crop_name or "nothing", e.kind, e.happened_on)
        for e in asked
        if e.kind in answerable and not any(_answers(a, e) for a in opened)
    ]
    return AlertEvaluation(
        score_alerts(asked, opened, ANSWERS),
        score_alerts(asked, confirmed, ANSWERS),
        tuple(_case(a, by_id[a.source_id], watched.histories[a.source_id], asked, grown) for a in watched.alerts),
        tuple(missed),
        sum(one.kind in answerable and one.parcel_id not in by_id for one in happened),
    )


def lights(watched: Watched) -> dict[str, int]:
    """Return parcels by traffic light."""
    counts = Counter(watched.lights.values())
    return {name: counts[name] for name in LIGHTS}


def _answers(alert: Raised, event: Event) -> bool:
    is_meant = event.kind in ANSWERS.get(alert.rule, ())
    return alert.parcel_id == event.parcel_id and is_meant and event.happened_on <= alert.raised_on


def _case(
    alert: RaisedAlertRow,
    parcel: Parcel,
    history: Sequence[HistoryRow],
    events: Sequence[Event],
    grown: Mapping[str, str],
) -> Case:
    raised = Raised(alert.source_id, alert.rule, alert.opened_at.date())
    # A wrong declaration is wrong from the first day, though its event is dated at the sowing of what truly grows.
    own = [
        e
        for e in events
        if e.parcel_id == alert.source_id
        and e.kind != "mowing"
        and (e.happened_on <= raised.raised_on or e.kind == "wrong_declaration")
    ]
    right = [e for e in own if _answers(raised, e)]
    shown = right or own
    # The evidence that made it: of its confirmation if there was one, else of its opening.
    report = [
        row
        for row in history
        if row.kind == "alert"
        and row.detail["rule"] == alert.rule
        and row.detail["event"] in ("opened", "confirmed")
        and alert.opened_at <= row.at
        and (alert.closed_at is None or row.at <= alert.closed_at)
    ]
    return Case(
        alert.source_id,
        parcel.crop_name or "nothing",
        grown[alert.source_id],
        alert.rule,
        raised.raised_on,
        alert.confirmed_at.date() if alert.confirmed_at else None,
        alert.closed_at.date() if alert.closed_at else None,
        "; ".join(f"{e.kind.replace('_', ' ')} {e.happened_on}" for e in shown) or "nothing",
        "right" if right else "other event" if own else "false",
        why(alert.rule, report[-1].detail) if report else "",
    )
