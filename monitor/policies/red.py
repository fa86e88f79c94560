"""When a departure may be red: what people see of what a rule found, by a policy's tables [[red]].

A rule's own verdict is never changed: it is what the rule goes on from, and what is compared with the finding before. The finding
that is stored, and that alerts and people see, is yellow where the verdict is red and the policy does not let it be; its evidence
says why. So a colour is a function of the rule's verdict, its confidence, its evidence and the policy alone.
"""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from db.seasons import Season
from monitor.alerts.evidence import HELD, as_of
from monitor.alerts.rules import RED, YELLOW, Decisions, Finding, Found
from monitor.policies.policy import Policy


def seen(finding: Finding, policy: Policy | None, season: Season) -> Finding:
    """Return a finding as people see it under a policy, whatever policy it was seen under before."""
    finding = _own(finding)
    red = None if policy is None else policy.red_of(finding.rule)
    if policy is None or red is None or finding.colour != "red":
        return finding
    why: dict[str, Any] = {}
    confidence = round(finding.confidence or 0.0, 3)  # as it is stated
    if red.above is not None and confidence < red.above:
        why |= {"above": red.above, "confidence": confidence, "risk": red.risk, "risk_confidence": red.confidence}
    if red.not_before is not None:
        begins, day = first_red_day(red.not_before, season), as_of(finding.evidence) or finding.departed_on
        if day is not None and day < begins:
            why["not_before"] = str(begins)
    if not why:
        return finding
    return replace(finding, colour="yellow", evidence={**finding.evidence, HELD: {**why, **policy.cited}})


def _own(finding: Finding) -> Finding:
    """Return a finding with the colour that its rule gave it."""
    if HELD not in finding.evidence:
        return finding
    evidence = {name: value for name, value in finding.evidence.items() if name != HELD}
    return replace(finding, colour="red", evidence=evidence)


def seen_of_all(decisions: Decisions, policy: Policy, season: Season) -> Found:
    """Return what people see of P parcels."""
    found, verdict = decisions.found, decisions.found.verdict.copy()
    if policy.red_of(decisions.rule) is not None:
        reds = np.flatnonzero(verdict == RED).tolist()
        verdict[[nr for nr in reds if seen(decisions.finding(nr), policy, season).colour != "red"]] = YELLOW
    return Found(verdict, found.departed_on)


def first_red_day(not_before: str, season: Season) -> date:
    """Return the day of a season on which MM-DD first comes; of a season that has none, that before it."""
    day = date.fromisoformat(f"{season.starts_on.year}-{not_before}")
    if day < season.starts_on and (later := day.replace(year=day.year + 1)) <= season.ends_on:
        return later
    return day
