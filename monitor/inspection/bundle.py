"""The evidence of an alert, as known at a time, in one document: what `bundle_page` and `bundle_pdf` show.

The same time gives the same bytes, whenever and wherever it is asked: nothing here reads a clock, a time zone or a setting of the
machine, and all but the pictures was recorded by then. A picture shows a scene that was known by then; it may have been cut later.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final

from db import bundle as store
from db import chips, history
from db.alerts import LogRow, alert_log
from db.bundle import AlertParcel
from db.chips import ChipRow, Wanted
from db.connect import Connection
from db.history import AlertFilter, HistoryRow, KnownAlertRow
from db.policies import in_force
from monitor.alerts import evidence
from monitor.alerts.lifecycle import named, named_decision
from monitor.alerts.settings import RuleSettings
from monitor.errors import NotFound

FORM: Final = "parcelwatch.evidence/1"
RULE_TITLES: Final[Mapping[str, str]] = {
    "crop_mismatch": "another crop than declared",
    "no_emergence": "no crop came up",
    "early_loss": "the crop was lost early",
    "flooding": "water stood on the parcel",
    "parts": "two parts that differ",
    "boundaries": "other fields than declared",
    "covered": "no plants where they were to be",
    "not_ploughed": "a green stand that was lost",
    "cover_days": "too few days of plant cover",
    "established_by": "no crop by the deadline",
}
"""Rules, and kinds of a policy's obligations, as a stranger would call them."""
RULE_WORDS: Final[Mapping[str, str]] = {
    "crop_mismatch": "From what satellites saw of this parcel in the season, the declared crop is unlikely and another one likely.",
    "no_emergence": "The declared crop has come up on the parcels around; on this one the satellites still see bare ground.",
    "early_loss": "The plants on this parcel disappeared while the same crop still stood on the parcels around.",
    "flooding": "Satellites saw water on this parcel.",
    "parts": "A part of this parcel differs from the rest through weeks: it bears another crop, or no plants at all.",
    "boundaries": "In pictures from satellites this parcel is two fields or more, or an edge of its field is not where it was declared.",
    "covered": "Plants were to cover this parcel; satellites saw bare soil.",
    "not_ploughed": "What grew on this parcel was to stay; satellites saw it green, and then bare soil.",
    "cover_days": "Plants were to cover this parcel for a number of days; satellites saw them on too few.",
    "established_by": "A crop was to stand on this parcel by a date; satellites did not see one.",
}
THRESHOLDS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "crop_mismatch": ("mismatch_",),
    "no_emergence": ("confirm_days", "neighbours_min", "standing_share", "seedbed_", "emergence_", "below_neighbours"),
    "early_loss": ("confirm_days", "neighbours_min", "standing_share", "below_neighbours", "loss_", "harvest_"),
}
"""Beginnings of the names of each rule's thresholds (`RuleSettings`)."""
COMPOSITES: Final[Mapping[str, tuple[str, ...]]] = {"S2": ("true_colour", "false_colour"), "S1": ("radar",)}
ROLES: Final[Mapping[str, str]] = {
    "before": "before the departure",
    "after": "after the departure",
    "newest": "the newest known",
}


@dataclass(frozen=True)
class Bundle:
    """An alert's evidence: the document, and what of it is drawn."""

    document: Mapping[str, Any]
    """What the JSON says; pictures in base64."""
    rows: Sequence[HistoryRow] = field(repr=False)
    """What is drawn: the parcel's history, and of this alert when it began and ended."""
    season: tuple[date, date]

    @property
    def json(self) -> bytes:
        """Return the document as JSON, keys sorted."""
        return (json.dumps(self.document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def gather(connection: Connection, alert_key: int, as_known_at: datetime | None) -> Bundle:
    """Return the evidence of an alert as known at a time (None: when the last event of its log was recorded).

    Raises:
        NotFound: no such alert by then.
    """
    its, log = store.alert_parcel(connection, alert_key), alert_log(connection, alert_key, as_known_at)
    if its is None or not log:
        raise NotFound(
            f"alert {alert_key} is not stored as known then; `parcelwatch alerts --all` lists those that are"
        )
    at = as_known_at or log[-1].recorded_at
    (alert,) = history.known_alerts(connection, AlertFilter(with_closed=True, alert_key=alert_key), at)
    rows = history.parcel_history(connection, its.parcel_key, None, None, at)
    wanted = chips.around(connection, its.parcel_key, alert.departed_on, at)
    document = {
        "form": FORM,
        "as_known_at": time(at),
        "alert": _alert(alert, alert_key),
        "why": evidence.why(alert.rule, alert.evidence),
        "in_plain_words": in_plain_words(alert),
        "log": [entry(alert.rule, one) for one in log],
        "evidence": alert.evidence,
        "thresholds": thresholds(alert.rule, alert.evidence),
        "versions": _versions(connection, its, alert.rule, rows, at),
        "pictures": _pictures(connection, its.parcel_key, alert_key, wanted, at),
        **_series(connection, rows),
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()
    drawn = [row for row in rows if row.kind != "alert" or _is_drawn(row, alert_key)]
    return Bundle(document | {"sha256": digest}, drawn, (its.starts_on, its.ends_on))


def _is_drawn(row: HistoryRow, alert_key: int) -> bool:
    return row.detail["alert_key"] == alert_key and row.detail["event"] in ("opened", "confirmed", "closed", "reopened")


def time(at: datetime) -> str:
    """Return a time in UTC, whatever zone the database's session gives it in."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def title(document: Mapping[str, Any]) -> str:
    """Return what the page is called."""
    alert = document["alert"]
    rule = RULE_TITLES.get(_kind(alert["rule"], document["evidence"]), alert["rule"].replace("_", " "))
    return f"Alert {alert['alert']}: {rule}, parcel {alert['parcel']}"


def _kind(rule: str, found: Mapping[str, Any]) -> str:
    """Return the rule, or the kind of a policy's obligation, by which sentences are found."""
    return rule if rule in RULE_TITLES else str(found.get("kind"))


def thresholds(rule: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the thresholds of a rule: those that its evidence states, else those that this version comes with."""
    if stated := found.get("thresholds"):
        return {"values": stated, "source": "stated by the evidence"}
    names = THRESHOLDS_OF.get(rule)
    if names is None:
        return {"values": {}, "source": "what was asked stands in the evidence"}
    values = {name: value for name, value in asdict(RuleSettings()).items() if name.startswith(names)}
    return {"values": values, "source": "as the program comes with them; the evidence does not state others"}


def in_plain_words(row: KnownAlertRow) -> str:
    """Return what the alert means and how far it is settled, for who has never seen one."""
    meaning = RULE_WORDS.get(
        _kind(row.rule, row.evidence), f"The rule {row.rule} found that the parcel departs from its declaration."
    )
    if row.closed_at is not None:
        return f"{meaning} The alert was closed on {time(row.closed_at)[:10]}; the log below says why."
    if row.colour == "red":
        return f"{meaning} A later acquisition says the same."
    if held := evidence.why_held(row.evidence):
        return f"{meaning} A later acquisition says the same; it is {held}."
    if since := evidence.recovering_since(row.evidence):
        return f"{meaning} A clear view of {since} shows it as declared; a second one in a row ends this."
    if row.rule == "parts":
        return (
            f"{meaning} Several acquisitions say so; which part it is, and whether it matters, the pictures may show."
        )
    if row.rule == "boundaries":
        return f"{meaning} The fields were drawn by a program from a season's scenes; the pictures may show whether it is right."
    return f"{meaning} This was seen once so far; a later acquisition has yet to confirm it."


def _alert(row: KnownAlertRow, key: int) -> dict[str, Any]:
    return {
        "alert": key,
        "collection": row.collection,
        "season": row.season,
        "parcel": row.source_id,
        "region": row.region,
        "area_ha": row.area_ha,
        "declared_crop": row.declared_crop,
        "rule": row.rule,
        "state": named(row.state),
        "colour": row.colour,
        "confidence": row.confidence,
        "departed_on": row.departed_on.isoformat(),
        "opened_at": time(row.opened_at),
        "confirmed_at": time(row.confirmed_at) if row.confirmed_at else None,
        "closed_at": time(row.closed_at) if row.closed_at else None,
    }


def entry(rule: str, row: LogRow) -> dict[str, Any]:
    """Return an entry of an alert's log: what happened, by whom and why."""
    decision = row.evidence.get("decision")
    by = decision["by"] if decision else "the monitor"
    why = decision.get("reason") if decision else row.evidence.get("because") or evidence.why(rule, row.evidence)
    details = {k: v for k, v in (decision or {}).items() if k not in ("by", "reason")}
    event = named_decision(row.event) if decision else row.event
    return {
        "recorded_at": time(row.recorded_at),
        "event": event,
        "by": by,
        "why": why,
        "details": details,
        "colour": row.colour,
        "confidence": row.confidence,
    }


def _versions(
    connection: Connection, its: AlertParcel, rule: str, rows: Sequence[HistoryRow], at: datetime
) -> dict[str, Any]:
    finding = store.finding_known(connection, its.parcel_key, rule, at)
    policy = in_force(connection, its.season_key, its.collection, at)
    keys = {key for row in rows if (key := row.detail.get("model_key")) is not None}
    return {
        "rule": rule,
        "rule_version": finding.rule_version if finding else None,
        "policy": {"name": policy.name, "version": policy.version, "sha256": policy.hash} if policy else None,
        "models": [{"task": one.task, "sha256": one.model_id} for one in store.named_models(connection, sorted(keys))],
    }


def _series(connection: Connection, rows: Sequence[HistoryRow]) -> dict[str, Any]:
    """Return observations, the daily curve and the posteriors."""
    observed = [row for row in rows if row.kind in ("s1", "s2")]
    scenes = store.named_scenes(connection, sorted({row.detail["scene_key"] for row in observed}))
    found: dict[str, list[dict[str, Any]]] = {"s1": [], "s2": []}
    for row in observed:
        scene = scenes.get(row.detail["scene_key"])
        values = {"ndvi": row.ndvi, "clear_fraction": row.detail.get("clear_fraction")}
        if row.kind == "s1":
            values = {"vv_db": row.vv_db, "vh_db": row.vh_db, "direction": row.detail.get("direction")}
        found[row.kind].append(
            {
                "observed_at": time(row.at),
                "recorded_at": time(row.recorded_at),
                "scene": scene.scene_id if scene else None,
                "relative_orbit": row.relative_orbit,
                "revision": row.detail["revision"],
                **values,
            }
        )
    return {
        "sentinel_1": found["s1"],
        "sentinel_2": found["s2"],
        "daily_ndvi": [
            {
                "day": row.at.astimezone(UTC).date().isoformat(),
                "ndvi": row.ndvi,
                "sd": row.ndvi_sd,
                "origin": row.origin,
            }
            for row in rows
            if row.kind == "ndvi"
        ],
        "posteriors": [
            {
                "observed_to": time(row.at),
                "recorded_at": time(row.recorded_at),
                "most_likely": row.crop,
                "probability": row.probability,
            }
            for row in rows
            if row.kind == "posterior"
        ],
    }


def _pictures(
    connection: Connection, parcel_key: int, alert_key: int, wanted: Sequence[Wanted], at: datetime
) -> list[dict[str, Any]]:
    """Return every picture that belongs to an alert, or why there is none."""
    stored = chips.chips_of(connection, parcel_key)
    found = []
    for one in wanted:
        for composite in COMPOSITES[one.sensor]:
            row = chips.shown_by(stored, one.source, composite, at) if one.source else None
            found.append(_picture(one, composite, row, alert_key))
    return found


def _picture(one: Wanted, composite: str, row: ChipRow | None, alert_key: int) -> dict[str, Any]:
    said: dict[str, Any] = {"role": one.role, "sensor": one.sensor, "composite": composite, "missing": None}
    if one.source is None:
        return said | {"missing": f"no observation {ROLES[one.role]} was known"}
    said |= {
        "observed_at": time(one.source.observed_at),
        "scene": one.source.scene_id,
        "revision": one.source.revision,
        "relative_orbit": one.source.relative_orbit,
        "clear_fraction": one.source.clear_fraction,
    }
    if row is None:
        not_cut = f"not cut; `parcelwatch chips cut {alert_key}` cuts it while the scene can be reached"
        return said | {"missing": chips.NO_RASTER if one.source.record is None else not_cut}
    if row.image is None:
        removed = f"removed {time(row.removed_at)[:10]}, its time of keeping was over" if row.removed_at else None
        return said | {"missing": row.missing or removed, "sha256": row.sha256}
    return said | {
        "cut_at": time(row.recorded_at),
        "sha256": row.sha256,
        "crs": row.crs,
        "left_m": row.left_m,
        "top_m": row.top_m,
        "pixel_m": row.pixel_m,
        "side_pixels": row.width,
        "bar_m": row.bar_m,
        "stretch": row.stretch,
        "png_base64": base64.b64encode(row.image).decode(),
    }
