"""Suppression windows of a policy: which departures give no alert, judged by the day of the departure and not of the run."""

from dataclasses import replace
from typing import Any

import numpy as np

from monitor.alerts.evidence import SUPPRESSED
from monitor.alerts.neighbours import Ints
from monitor.alerts.rules import YELLOW, Finding, Found
from monitor.policies.known import Asked
from monitor.policies.policy import Policy


def windows_of(policy: Policy | None, asked: Asked, parcels: Ints, rule: str, found: Found) -> Ints:
    """Return (N,) the place of the first of the policy's windows that holds each departure, -1 where none does.

    Args:
        policy: in force; None: there are no windows.
        asked: P parcels.
        parcels: (N,) places among them of those of which something was found.
        rule: that found it.
        found: (N,)
    """
    which = np.full(len(parcels), -1)
    for nr, window in enumerate(policy.suppress if policy is not None else ()):
        if window.rules and rule not in window.rules:
            continue
        day = found.departed_on  # NaT where nothing departs, with which every comparison is false
        begin, until = np.datetime64(window.begin), np.datetime64(window.until)
        dated = np.flatnonzero((which < 0) & (found.verdict >= YELLOW) & (day >= begin) & (day <= until))
        if len(dated):  # selections go parcel by parcel: asked of the few that depart in the window
            which[dated[asked.of(parcels[dated]).applies(window.parcels)]] = nr
    return which


def suppressed(finding: Finding, policy: Policy, window: int) -> Finding:
    """Return a finding that says which window of the policy keeps it from being an alert; without one (-1), as if there was none."""
    evidence: dict[str, Any] = {name: value for name, value in finding.evidence.items() if name != SUPPRESSED}
    if window >= 0:
        one = policy.suppress[window]
        dates = {"from": str(one.begin), "until": str(one.until)}
        evidence[SUPPRESSED] = {"name": one.name, "reason": one.reason, **dates, **policy.cited}
    return replace(finding, evidence=evidence)
