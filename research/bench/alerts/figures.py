"""Figures of alerts beside the truth, pooled over seasons.

precision, recall, f1, days    `training.metrics.score_alerts` with the kinds that each rule answers (`research.seasons.evaluate`)
lift at 4 %                    share of the true cases among the first 4 % of the parcels, over 0.04; true is a parcel with any event
                               that some rule answers; where there are fewer alerts, the rest of the 4 % is drawn at random
false reds                     confirmed alerts that no event of the rule's kinds explains, per 1,000 monitorable parcels and season
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd

from monitor.alerts.neighbours import Ints
from monitor.alerts.rules import VERDICTS
from monitor.errors import PolicyError
from monitor.policies.risk import Truth, choose
from research.bench.alerts.watch import Alert, Watched
from research.seasons.evaluate import ANSWERING, ANSWERS, LIGHTS, light
from research.seasons.outcome import GROWN_NAME
from research.simulator import Season
from training.metrics import AlertScores, Event, Raised, score_alerts

BUDGET: Final = 0.04
RISK, SURE = 0.001, 0.9
"""Share of all parcels that a rule may call falsely red, and the confidence that it is no more: the defaults of `policy calibrate`."""
ANSWERABLE: Final = frozenset(kind for kinds in ANSWERS.values() for kind in kinds)
LEANS_ON: Final[Mapping[str, str]] = {
    "crop_mismatch": (
        "crops look alike in the season that taught the classifier: one set of canopies, soils and orbits, so other places and "
        "years differ by weather and soil alone; wrong declarations are drawn by crop share, not towards crops that look alike"
    ),
    "no_emergence": (
        "a crop that fails leaves bare soil (with few weeds) to the end, never a thin stand; sowing spreads by about ten days within "
        "a region and crop; the mask misses 1 % of the cloud"
    ),
    "early_loss": (
        "a loss takes the whole parcel in a few days, at least 25 days before its harvest; neighbours are harvested within "
        "about two weeks; soil without plants has NDVI 0.14 to 0.2"
    ),
    "flooding": (
        "water covers whole fields that adjoin, within three days, and is calm: NDVI below 0.05, VV -19 dB and VH -27 dB in all "
        "orbits; one flood a region, of 1 % of its parcels; frost and rain take the whole region; radar levels do not move by more "
        "than 0.1 dB between products"
    ),
}
"""What the simulator assumes that a rule leans on."""


@dataclass(frozen=True)
class Judged:
    """The alerts of one season beside its truth: what is left of it when the season itself is gone."""

    parcels: pd.DataFrame
    """As `Truth.parcels`."""
    events: Sequence[Event]
    """What truly happened on the parcels that are watched, mowing left out: it is management."""
    alerts: Sequence[Alert]
    verdicts: Mapping[str, Ints]
    """What each rule found last, (P,)."""
    why: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """As `Watched.why`."""

    @classmethod
    def of(cls, season: Season, watched: Watched) -> "Judged":
        """Return the alerts of a season that was watched."""
        verdicts = {rule: found.verdict for rule, found in watched.said.items()}
        return cls(season.truth.parcels, events_of(season), watched.alerts, verdicts, watched.why)

    @property
    def ids(self) -> list[str]:
        """Return the parcels' ids."""
        return ids_of(self.parcels)

    @property
    def n_watched(self) -> int:
        """Return how many parcels are watched."""
        return int(self.parcels["is_monitorable"].sum())

    def raised(self, *, confirmed: bool, levels: Mapping[str, float] | None = None) -> list[Raised]:
        """Return the alerts as opened or as confirmed, these of each rule from a level of confidence on."""
        ids, at_all = self.ids, levels or {}
        days = ((one, one.red_on(at_all.get(one.rule, 0.0)) if confirmed else one.opened_on) for one in self.alerts)
        return dated([Raised(ids[one.parcel], one.rule, day) for one, day in days if day is not None], self.events)


def ids_of(parcels: pd.DataFrame) -> list[str]:
    """Return the ids of parcels as text."""
    return list(parcels["parcel_id"].astype(str))


def events_of(season: Season) -> list[Event]:
    """Return the events of a season that some rule answers, on parcels that are watched."""
    parcels, rows = season.truth.parcels, season.truth.events
    watched = frozenset(ids_of(parcels[parcels["is_monitorable"]]))
    events = (Event(str(e.parcel_id), str(e.kind), pd.Timestamp(str(e.day)).date()) for e in rows.itertuples())
    return [one for one in events if one.kind in ANSWERABLE and one.parcel_id in watched]


def dated(raised: Sequence[Raised], events: Sequence[Event]) -> list[Raised]:
    """Return alerts, those on a wrong declaration not before what truly grows was sown.

    A declaration is wrong from the first day, though the event is dated at that sowing: who sees in March that the declared wheat is
    not there is right, and has waited no days.
    """
    sown = {one.parcel_id: one.happened_on for one in events if one.kind == "wrong_declaration"}
    return [
        replace(one, raised_on=max(one.raised_on, sown[one.parcel_id]))
        if one.parcel_id in sown and "wrong_declaration" in ANSWERS.get(one.rule, ("wrong_declaration",))
        else one
        for one in raised
    ]


def scores(of: Sequence[Judged], *, confirmed: bool, levels: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the figures of all rules together, and of each under `rules`; `levels` as `Judged.raised`."""
    events = [event for one in of for event in one.events]
    raised = [alert for one in of for alert in one.raised(confirmed=confirmed, levels=levels)]
    reds = [alert for one in of for alert in one.raised(confirmed=True, levels=levels)]
    n_parcels = sum(one.n_watched for one in of)
    troubled = {event.parcel_id for event in events}

    def on_sound(some: Sequence[Raised]) -> dict[str, Any]:
        """Return reds on parcels where nothing happened: the others may be of the wrong rule, but no inspector goes for nothing."""
        n = sum(one.parcel_id not in troubled for one in some)
        return {"reds_on_sound_per_1000": rounded(1000 * n / max(n_parcels, 1))}

    whole = figures(score_alerts(events, raised, ANSWERS), score_alerts(events, reds, ANSWERS), n_parcels)
    whole |= on_sound(reds)
    rules = {}
    for rule in ANSWERING:
        answers: dict[str, tuple[str, ...]] = {rule: ANSWERS[rule]}
        own = [event for event in events if event.kind in ANSWERS[rule]]
        mine, red = ([alert for alert in some if alert.rule == rule] for some in (raised, reds))
        rules[rule] = figures(score_alerts(own, mine, answers), score_alerts(own, red, answers), n_parcels)
        rules[rule] |= on_sound(red) | {"lift_at_4_percent": lift(of, rule), "leans_on": LEANS_ON[rule]}
    return whole | {"lift_at_4_percent": lift(of), "kinds": _kinds(events, raised), "rules": rules}


def figures(scored: AlertScores, red: AlertScores, n_parcels: int) -> dict[str, Any]:
    """Return the figures of some alerts, false reds of those that were confirmed."""
    return {
        "precision": rounded(scored.precision),
        "recall": rounded(scored.recall),
        "f1": rounded(f1(scored)),
        "false_reds_per_1000": rounded(1000 * sum(red.false_alerts.values()) / max(n_parcels, 1)),
        "median_days_to_alert": rounded(scored.median_days),
        "alerts": scored.alerts,
        "events": scored.events,
    }


def f1(scored: AlertScores) -> float:
    """Return the harmonic mean of precision and recall, NaN without events, 0 where nothing is found."""
    if not scored.events or not scored.alerts:
        return 0.0 if scored.events else float("nan")
    total = scored.precision + scored.recall
    return 2 * scored.precision * scored.recall / total if total else 0.0


def rounded(value: float) -> float | None:
    """Return a figure with three decimals, None where it is not a number."""
    return round(float(value), 3) if np.isfinite(value) else None


def lift(of: Sequence[Judged], rule: str | None = None) -> float | None:
    """Return the lift of the season's alerts in the order of `alerts --order sure`, of one rule or of the first of each parcel."""
    kinds = ANSWERABLE if rule is None else frozenset(ANSWERS[rule])
    found = total = 0.0
    for one in of:
        true = {event.parcel_id for event in one.events if event.kind in kinds}
        n_parcels, ids = one.n_watched, one.ids
        asked = [alert for alert in one.alerts if rule in (None, alert.rule)]
        ordered = list(dict.fromkeys(ids[alert.parcel] for alert in sorted(asked, key=_sure)))
        budget = BUDGET * n_parcels
        first = ordered[: round(budget)]
        hit = sum(parcel in true for parcel in first)
        rest = max(budget - len(first), 0) / max(n_parcels - len(first), 1)
        found, total = found + hit + rest * (len(true) - hit), total + len(true)
    return rounded(found / total / BUDGET) if total else None


def _sure(alert: Alert) -> tuple[bool, float]:
    """Order alerts as `db.history.ORDERS["sure"]`: confirmed ones first, then the surest."""
    return alert.confirmed_on is None, -(alert.finding.confidence or 0.0)


def _kinds(events: Sequence[Event], raised: Sequence[Raised]) -> dict[str, Any]:
    found = score_alerts(events, raised, ANSWERS).per_kind
    return {
        kind: {"events": one.events, "found": one.found, "median_days": rounded(one.median_days)}
        for kind, one in found.items()
    }


def levels(of: Judged) -> dict[str, float]:
    """Return the confidence from which each rule may call a parcel red so that at most `RISK` of all parcels are falsely red.

    Chosen as `policy calibrate` does, with `SURE` confidence, on a season of which all is true; infinite where no level has the guarantee.
    """
    found, ids = {}, of.ids
    watched = np.flatnonzero(of.parcels["is_monitorable"])
    for rule in ANSWERING:
        surest, is_false = np.full(len(ids), np.nan), np.zeros(len(ids), bool)
        for alert in (one for one in of.alerts if one.rule == rule and one.reds):
            (raised,) = dated([Raised(ids[alert.parcel], rule, alert.reds[0][0])], of.events)
            surest[alert.parcel] = np.fmax(surest[alert.parcel], alert.reds[-1][1])
            is_false[alert.parcel] |= not any(
                _answers(raised, one) and one.parcel_id == raised.parcel_id for one in of.events
            )
        truth = Truth(surest[watched], ~is_false[watched], np.ones(len(watched)), len(watched))
        try:
            found[rule] = choose(truth, RISK, SURE).above
        except PolicyError:
            found[rule] = np.inf
    return found


def colours(of: Sequence[Judged]) -> dict[str, float]:
    """Return the share of the monitorable parcels by their worst colour at the season's end."""
    counts = Counter[str]()
    for one in of:
        verdicts = np.stack(list(one.verdicts.values()))
        for nr in np.flatnonzero(one.parcels["is_monitorable"]):
            seen = [colour for verdict in verdicts[:, nr] if (colour := VERDICTS[verdict][1]) is not None]
            counts[light(True, seen)] += 1
    return {name: rounded(counts[name] / max(counts.total(), 1)) or 0.0 for name in LIGHTS if name in counts}


def false_reds(of: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return each confirmed alert that no event of its rule's kinds explains, with the true story of its parcel."""
    told = []
    for one in of:
        parcels, reds = one.parcels.set_index("parcel_id"), [alert for alert in one.alerts if alert.confirmed_on]
        for alert, raised in zip(reds, one.raised(confirmed=True), strict=True):
            own = [event for event in one.events if event.parcel_id == raised.parcel_id]
            if any(_answers(raised, event) for event in own):
                continue
            parcel = parcels.loc[raised.parcel_id]
            told.append(
                {
                    "parcel": raised.parcel_id,
                    "rule": alert.rule,
                    "declared": GROWN_NAME[str(parcel["declared"])],
                    "grown": GROWN_NAME[str(parcel["grown"])],
                    "sown": _day(parcel["sowing"]),
                    "harvested": _day(parcel["harvest"]),
                    "happened": "; ".join(f"{event.kind} {event.happened_on}" for event in own) or "nothing",
                    "departed": str(alert.finding.departed_on),
                    "opened": str(alert.opened_on),
                    "confirmed": str(alert.confirmed_on),
                    "closed": str(alert.closed_on),
                    "evidence": {key: value for key, value in alert.finding.evidence.items() if key != "thresholds"},
                }
            )
    return told


def _answers(raised: Raised, event: Event) -> bool:
    return event.kind in ANSWERS[raised.rule] and event.happened_on <= raised.raised_on


def missed(of: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return each event that no alert answers, with the crop and whether its parcel had an alert of another rule."""
    told = []
    for one in of:
        alerts, ids = one.raised(confirmed=False), one.ids
        by_parcel = {parcel: [a for a in alerts if a.parcel_id == parcel] for parcel in {a.parcel_id for a in alerts}}
        parcels = one.parcels.set_index("parcel_id")
        place = {parcel: nr for nr, parcel in enumerate(ids)}
        for event in one.events:
            mine = by_parcel.get(event.parcel_id, [])
            if any(_answers(alert, event) for alert in mine):
                continue
            own = parcels.loc[event.parcel_id]
            last = {rule: VERDICTS[verdict[place[event.parcel_id]]] for rule, verdict in one.verdicts.items()}
            told.append(
                {
                    "parcel": event.parcel_id,
                    "kind": event.kind,
                    "day": str(event.happened_on),
                    "declared": GROWN_NAME[str(own["declared"])],
                    "grown": GROWN_NAME[str(own["grown"])],
                    "other_alerts": [f"{a.rule} {a.raised_on}" for a in mine],
                    "said_last": {
                        rule: f"{colour or outcome}: {one.why.get((place[event.parcel_id], rule), '')}"
                        for rule, (outcome, colour) in last.items()
                        if event.kind in ANSWERS[rule]
                    },
                }
            )
    return told


def _day(value: Any) -> str | None:
    return None if pd.isna(value) else str(date.fromisoformat(str(value)[:10]))
