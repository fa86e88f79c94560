"""What an evidence bundle says in words, the same in HTML and PDF: captions, tables, and how to read the pictures."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from monitor.alerts.evidence import detail, percent
from monitor.inspection.bundle import ROLES
from terminal.output import printable

COMPOSITE_TITLES: Final[Mapping[str, str]] = {
    "true_colour": "True colour",
    "false_colour": "False colour",
    "radar": "Radar",
}
COMPOSITE_WORDS: Final[Mapping[str, str]] = {
    "true_colour": "As the eye would see it: plants green, bare soil brown, water dark.",
    "false_colour": "With the near infrared, which eyes do not see: dense plants bright red, bare soil grey to blue-green, water black.",
    "radar": "Radar sees by day and night and through cloud: dense plants green, bare or ploughed soil red to violet, water black.",
}
READING: Final = (
    "The white line is the outline of the parcel. North is up. The bar at the lower left has the length that the caption says. "
    "Stripes: cloud or its shadow, as the data's producer says. Grey with dots: no data. "
    "Brightness is drawn by the same fixed rule on every date, so pictures of one kind can be compared."
)
CURVE_ALT: Final = (
    "Curves of the season: NDVI of clear views and from day to day with its 95 % interval; radar backscatter VV and VH by orbit; "
    "probabilities of crops. The values stand in the tables below."
)
CURVE_WORDS: Final = (
    "NDVI measures green plants: about 0.2 on bare soil, 0.8 and more in a dense crop. Dots are clear views by Sentinel-2; the line is "
    "computed for every day from these and from radar, the band around it holds the true value in 95 of 100 cases. Below it the radar's "
    "backscatter, each orbit for itself, and how likely each crop was. Dashed lines: what happened to the alert."
)
LIMITS: Final = (
    "Everything here was recorded by the time named above, but for two things. A picture shows a scene that was known by then; it may have "
    "been cut later, and the document says when. The area is the parcel's as registered today. A satellite's picture alone proves nothing: "
    "a person decides."
)
SHAPES: Final = {
    "green": "● green: nothing departs any more",
    "yellow": "▲ yellow: a departure was seen once",
    "red": "■ red: a later acquisition says the same",
}
"""Colours in words, and in forms that are seen without them."""


class Table(NamedTuple):
    """A table with a caption."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


def text(value: object) -> str:
    """Return what is shown of a value: one line, nothing invisible in it."""
    return printable("" if value is None else value)


def minute(time: str | None) -> str:
    """Return a time of the document for people."""
    return f"{time[:10]} {time[11:16]} UTC" if time else "not yet"


def facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what an alert says, in the order in which a reader asks."""
    alert = document["alert"]
    area = alert["area_ha"]
    return [
        ("Colour", SHAPES.get(alert["colour"], alert["colour"])),
        ("State", text(alert["state"])),
        ("Confidence", percent(alert["confidence"])),
        ("Parcel", text(f"{alert['parcel']} ({alert['collection']}, season {alert['season']})")),
        ("Region", text(alert["region"])),
        ("Area", f"{area:.2f} ha" if area is not None else "not known"),
        ("Declared crop", text(alert["declared_crop"] or "nothing was declared")),
        ("Departed on", alert["departed_on"]),
        ("Opened", minute(alert["opened_at"])),
        ("Seen again by a later acquisition", minute(alert["confirmed_at"])),
        *([("Closed", minute(alert["closed_at"]))] if alert["closed_at"] else []),
    ]


def caption(picture: Mapping[str, Any]) -> str:
    """Return what stands below a picture, or in its place."""
    when = f"{ROLES[picture['role']].capitalize()}"
    if not picture.get("observed_at"):
        return f"{when}."
    clear = picture.get("clear_fraction")
    said = f"{when}: {minute(picture['observed_at'])}"
    if clear is not None:
        said += f", {percent(clear)} of the parcel clear"
    if picture["sensor"] == "S1":
        said += f", orbit {picture['relative_orbit']}"
    if picture["missing"] is None:
        said += f". Bar {picture['bar_m']} m"
    return f"{said}."


def alternative(picture: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return what a picture shows, for who cannot see it."""
    side = round(picture["pixel_m"] * picture["side_pixels"])
    return text(
        f"{COMPOSITE_TITLES[picture['composite']]} picture of parcel {document['alert']['parcel']} and {side} by {side} m around it, "
        f"outline drawn, {minute(picture['observed_at'])}, {ROLES[picture['role']]}"
    )


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Return the tables: the log, thresholds, observations, pictures, versions."""
    return [
        _log(document),
        _thresholds(document),
        _optical(document),
        _radar(document),
        _cut(document),
        _versions(document),
    ]


def _log(document: Mapping[str, Any]) -> Table:
    """Return the log; of several changes in a row of one colour the last, with their number: the JSON has each."""
    rows = []
    numbered = enumerate(document["log"])
    for _, run in groupby(numbered, key=lambda one: one[1]["colour"] if one[1]["event"] == "changed" else one[0]):
        entries = [entry for _, entry in run]
        last, n = entries[-1], len(entries)
        details = "; ".join(detail(name, value) for name, value in sorted(last["details"].items()))
        why = " ".join(part for part in (last["why"], f"({details})" if details else "") if part)
        event = f"{last['event']}, {n} times since {entries[0]['recorded_at'][:10]}" if n > 1 else last["event"]
        rows.append([minute(last["recorded_at"]), text(event), text(last["by"]), last["colour"], text(why)])
    return Table("What happened to the alert", ("when", "what", "by", "colour", "why"), rows)


def _thresholds(document: Mapping[str, Any]) -> Table:
    found = document["thresholds"]
    rows = [[text(name.replace("_", " ")), text(value)] for name, value in sorted(found["values"].items())]
    return Table(f"Thresholds of the rule ({found['source']})", ("threshold", "value"), rows)


def _optical(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            minute(one["observed_at"]),
            _number(one["ndvi"], 2),
            _share(one["clear_fraction"]),
            text(one["scene"]),
            str(one["revision"]),
        ]
        for one in document["sentinel_2"]
    ]
    return Table("Observations by Sentinel-2", ("observed", "NDVI", "clear", "scene", "revision"), rows)


def _radar(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            minute(one["observed_at"]),
            _number(one["vv_db"], 1),
            _number(one["vh_db"], 1),
            f"{one['relative_orbit']} {one['direction'] or ''}".strip(),
            text(one["scene"]),
            str(one["revision"]),
        ]
        for one in document["sentinel_1"]
    ]
    return Table("Observations by Sentinel-1", ("observed", "VV dB", "VH dB", "orbit", "scene", "revision"), rows)


def _cut(document: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{COMPOSITE_TITLES[one['composite']]}, {ROLES[one['role']]}",
            text(one.get("scene", "")),
            str(one.get("revision", "")),
            text(one.get("stretch") or f"missing: {one['missing']}"),
            one.get("sha256") or "",
        ]
        for one in document["pictures"]
    ]
    return Table("Where the pictures come from", ("picture", "scene", "revision", "drawn by", "SHA-256"), rows)


def _versions(document: Mapping[str, Any]) -> Table:
    versions = document["versions"]
    rows = [["rule", text(f"{versions['rule']}, version {versions['rule_version'] or 'not recorded'}")]]
    if policy := versions["policy"]:
        rows.append([text(f"policy {policy['name']}, version {policy['version']}"), policy["sha256"]])
    rows += [[f"model: {one['task']}", one["sha256"]] for one in versions["models"]]
    rows.append(["this document, as JSON without this line", document["sha256"]])
    return Table("Versions and hashes", ("of", "version or SHA-256"), rows)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)
