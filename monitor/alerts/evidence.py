"""Findings in a sentence, for people who decide on them."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from monitor.alerts.recovery import RECOVERING

LACKS_OBSERVATIONS: Final = "observations"
"""In a finding's evidence as `lacks`: NOT_VALID because of the parcel's own observations, not of its neighbours'."""
SUPPRESSED: Final = "suppressed"
"""In a departure's evidence: the window of the policy that its date lies in, so that it gives no alert."""
HELD: Final = "held_at_yellow"
"""In the evidence of a departure that its rule calls red: why the policy does not let it be red yet (`monitor.policies.red`)."""
NOT_ASKED: Final = {"asked": False}
"""In the evidence of NOT_EXECUTED: the policy in force does not ask this of the parcel, or not yet."""
JUDGED_BY: Final = "judged_by"
"""In the evidence of NOT_EXECUTED: the rule that judges the parcel in place of this one."""


def detail(name: str, value: object) -> str:
    """Return what belongs to a decision in words; its times, stored as ISO 8601, in UTC to the minute."""
    if name in ("deadline", "taken_at"):
        value = f"{datetime.fromisoformat(str(value)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{name.replace('_', ' ')} {value}"


def why(rule: str, evidence: Mapping[str, Any]) -> str:
    """Return what a finding rests on, with the day of the last observation in it ("as of")."""
    if "reason" in evidence:
        return str(evidence["reason"])
    day = as_of(evidence)
    said = _said(rule, evidence)
    if since := recovering_since(evidence):
        said = f"recovering since {since}, over with one more clear view as declared, of another acquisition; {said}"
    if held := why_held(evidence):
        said = f"{held}; {said}"
    return f"as of {day}: {said}" if day and said else said or "nothing departs"


def recovering_since(evidence: Mapping[str, Any]) -> str | None:
    """Return since when a departure recovers, None where it does not."""
    recovering = evidence.get(RECOVERING)
    return None if recovering is None else str(recovering["since"])


def why_held(evidence: Mapping[str, Any]) -> str | None:
    """Return why the policy holds a departure at yellow that its rule calls red, None where it does not."""
    held = evidence.get(HELD)
    if held is None:
        return None
    because = []
    if "above" in held:
        because.append(f"red from a confidence of {held['above']} on, this has {held['confidence']}")
    if "not_before" in held:
        because.append(f"nothing is red before {held['not_before']}")
    return f"held at yellow by {held['policy']} version {held['policy_version']}: {'; '.join(because)}"


def as_of(evidence: Mapping[str, Any]) -> date | None:
    """Return the day of the newest observation in a finding's evidence; None where it names none."""
    views, passes = evidence.get("clear_views") or [], evidence.get("low_passes") or []
    seen = max((one[-1][0] for one in (views, passes) if one), default=None)
    day = evidence.get("observed_to") or seen or evidence.get("lost_on")
    return None if day is None else date.fromisoformat(str(day))


def percent(probability: float) -> str:
    """Return a probability in percent, never rounded to the certainties 0 and 100."""
    if 0 < probability < 0.01:
        return "under 1%"
    if 0.99 < probability < 1:
        return "over 99%"
    return f"{probability:.0%}"


def _said(rule: str, evidence: Mapping[str, Any]) -> str:
    if sentence := SENTENCES.get(rule):
        return sentence(evidence)
    if sentence := OBLIGATIONS.get(str(evidence.get("kind"))):
        return sentence(evidence)
    # A rule without a sentence here: its evidence as it is, never "nothing departs".
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in evidence.items())


def _mismatch(evidence: Mapping[str, Any]) -> str:
    if "declared" not in evidence:
        return ""
    return (
        f"probability of the declared {evidence['declared']} {percent(evidence['probability_of_declared'])}, "
        f"of {evidence['most_likely']} {percent(evidence['probability_of_most_likely'])}, "
        f"after {evidence['n_observations']} observations"
    )


def _no_emergence(evidence: Mapping[str, Any]) -> str:
    if "emergence_due" not in evidence:
        return ""
    return (
        f"emergence was due {evidence['emergence_due']}, as on {evidence['neighbours']} parcels of the same crop around; "
        f"clear views: {_views(evidence)}"
    )


def _early_loss(evidence: Mapping[str, Any]) -> str:
    if "lost_on" not in evidence:
        return ""
    said = f"canopy lost on {evidence['lost_on']}"
    if "harvest_from" in evidence:  # no share was measured then
        said += f"; the harvest of the same crop around began on {evidence['harvest_from']}, by the day of the season before"
    elif "standing_share_of_neighbours" in evidence:
        share = percent(evidence["standing_share_of_neighbours"])
        said += f" while {share} of the {evidence['neighbours']} parcels of the same crop around had one"
    return f"{said}; clear views: {_views(evidence)}"


def _flooding(evidence: Mapping[str, Any]) -> str:
    if "low_passes" not in evidence:
        return ""
    passes = "; ".join(f"{day} VV {vv} dB, VH {vh} dB (orbit {orbit})" for day, orbit, vv, vh in evidence["low_passes"])
    said = f"water in clear views: {_views(evidence)}; and the radar fell to that of water: {passes}"
    if around := evidence.get("neighbours"):
        low = "; ".join(f"{n_low} of {n_seen} on {day} (orbit {orbit})" for day, orbit, n_seen, n_low, *_ in around)
        said += (
            f"; so it did on the nearest parcels, of {max(one[4] for one in around)} crops with its own: {low}, "
            f"and on {percent(max(one[5] for one in around))} at most of the region's parcels of this crop"
        )
    return said


def _parts(evidence: Mapping[str, Any]) -> str:
    if "share" not in evidence:
        return ""
    share, n = percent(evidence["share"]), evidence["n_views"]
    views = "; ".join(
        f"{day} NDVI {low:.2f} on {percent(lower)}, {high:.2f} on the rest"
        for day, lower, low, high in evidence["views"]
    )
    if evidence["kind"] == "no_vegetation":
        return f"{share} of the pixels bore no vegetation on {n} views since {evidence['since']}; {views}"
    return f"{share} of the pixels differ from the rest on {n} views since {evidence['since']}; {views}"


def _boundaries(evidence: Mapping[str, Any]) -> str:
    if parts := evidence.get("parts"):
        each = "; ".join(", ".join(_part(one)) for one in parts)
        return f"drawn as {len(parts)} fields: {each}"
    if regions := evidence.get("regions"):
        return "; ".join(_moved(one) for one in regions)
    return ""


def _part(part: Mapping[str, Any]) -> list[str]:
    size = f"{part['area_ha']} ha ({percent(part['share'])})"
    return [size, *([part["crop"]] if "crop" in part else []), f"confidence {percent(part['confidence'])}"]


def _moved(region: Mapping[str, Any]) -> str:
    size = f"{region['area_ha']} ha in the {region['where']}, {region['by_m']} m wide"
    whose = f"parcel {region['neighbour']}" if "neighbour" in region else "land that nobody declares"
    if region["how"].startswith("takes_"):
        return f"its field takes in {size}, of {whose}"
    return f"{size}, lie in a field of {whose}"


def _bare(evidence: Mapping[str, Any]) -> str:
    return (
        f"bare soil (NDVI below {evidence['threshold_ndvi']}) between {evidence['from']} and {evidence['until']} departs; "
        f"clear views: {_views(evidence)}"
    )


def _days_of_cover(evidence: Mapping[str, Any]) -> str:
    days = "day" if evidence["days_seen"] == 1 else "days"
    return (
        f"{evidence['days_seen']} {days} of cover seen between {evidence['from']} and {evidence['until']}, "
        f"{evidence['days_possible']} possible, {evidence['days_needed']} asked; clear views: {_views(evidence)}"
    )


def _established(evidence: Mapping[str, Any]) -> str:
    return f"a crop was to be established by {evidence['until']}; clear views: {_views(evidence)}"


def _cuts(evidence: Mapping[str, Any]) -> str:
    cuts = "; ".join(
        f"between {one['begin']} and {one['end']}, confidence {percent(one['confidence'])}" for one in evidence["cuts"]
    )
    return f"cuts from {evidence['from']} to {evidence['until']}: {cuts or 'none'}; clear views: {_views(evidence)}"


def _field_work(evidence: Mapping[str, Any]) -> str:
    events = "; ".join(
        f"between {one['begin']} and {one['end']}, confidence {percent(one['confidence'])}, by {' and '.join(one['seen_by'])}"
        for one in evidence["events"]
    )
    what = "harvest" if evidence["kind"] == "harvested" else "tillage"
    return (
        f"{what} ({evidence['kind'].replace('_', ' ')} is asked from {evidence['from']} to {evidence['until']}): "
        f"{events or 'none seen'}; clear views: {_views(evidence)}"
    )


def _views(evidence: Mapping[str, Any]) -> str:
    return "; ".join(f"{day} NDVI {ndvi:.2f}" for day, ndvi in evidence.get("clear_views", [])) or "none"


SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "crop_mismatch": _mismatch,
    "no_emergence": _no_emergence,
    "early_loss": _early_loss,
    "flooding": _flooding,
    "parts": _parts,
    "boundaries": _boundaries,
}
"""Each rule's evidence in words; "" where nothing departs."""
OBLIGATIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "covered": _bare,
    "not_ploughed": _bare,
    "cover_days": _days_of_cover,
    "established_by": _established,
    "mown": _cuts,
    "not_mown": _cuts,
    "harvested": _field_work,
    "tilled": _field_work,
    "not_tilled": _field_work,
}
"""The evidence of each kind of obligation in words."""
