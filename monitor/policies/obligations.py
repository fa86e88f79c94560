"""What is found of parcels by each obligation of a policy.

    covered         never seen bare in the window (winter soil cover)
    cover_days      vegetation in one stretch of so many days in the window (catch crop)
    established_by  vegetation seen by the last day of the window (establishment deadline)
    not_ploughed    a green stand is not lost in the window (permanent grassland)
    mown            a cut or grazing is seen in the window; what was not is yellow at most: cuts are missed too
    not_mown        no cut is seen in the window (nesting, hay meadows)
    harvested       the crop leaves the field in the window, not before and not after
    tilled          the soil is tilled in the window; what was not seen is yellow at most
    not_tilled      the soil is not tilled in the window

Before the last day nothing that can still be done departs: NOT_VALID names the deadline.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from monitor.alerts.evidence import NOT_ASKED
from monitor.alerts.neighbours import Bools
from monitor.alerts.rules import NOT_EXECUTED, Case, Decisions
from monitor.policies import arable, cover, grass
from monitor.policies.known import Asked, Known
from monitor.policies.policy import Kind, Obligation, Policy


def decide(policy: Policy, asked: Asked, known: Known) -> Iterator[Decisions]:
    """Yield of each obligation of a policy whether P parcels meet it; the evidence names the policy."""
    selected = [asked.applies(obligation.parcels) for obligation in policy.obligation]
    of_grass = [of for of, one in zip(selected, policy.obligation, strict=True) if one.kind in ("mown", "not_mown")]
    known = replace(known, is_grass=np.any(of_grass, axis=0)) if of_grass else known
    of_work = [
        of & (known.today >= np.datetime64(one.begin))
        for of, one in zip(selected, policy.obligation, strict=True)
        if one.kind in ("harvested", "tilled", "not_tilled")
    ]
    known = replace(known, arable=(np.any(of_work, axis=0), asked.declared.hcat_code)) if of_work else known
    for obligation, applies in zip(policy.obligation, selected, strict=True):
        decided = _KINDS[obligation.kind](obligation, known, applies)
        not_asked = _not_asked(~applies, "the obligation does not ask this of the parcel")
        begins = np.datetime64(obligation.begin)
        too_early = _not_asked(~(known.today >= begins), f"asked from {begins} on")
        cases = [not_asked, too_early, *(_named(case, policy.cited) for case in decided.cases)]
        yield Decisions(obligation.name, cases, decided.departed_on)


def dropped(rule: str, n_parcels: int) -> Decisions:
    """Return of N parcels that an obligation of an earlier policy is not asked any more."""
    everything, nothing = np.ones(n_parcels, bool), np.full(n_parcels, np.datetime64("NaT", "D"))
    case = _not_asked(everything, "the policy in force does not ask this")
    return Decisions(rule, [case], nothing)


def _not_asked(applies: Bools, reason: str) -> Case:
    return Case(applies, NOT_EXECUTED, lambda _: {"reason": reason, **NOT_ASKED})


def _named(case: Case, under: Mapping[str, Any]) -> Case:
    return replace(case, evidence=lambda parcel: {**case.evidence(parcel), **under})


_KINDS: Final[Mapping[Kind, Callable[[Obligation, Known, Bools], Decisions]]] = {
    "covered": cover.covered,
    "cover_days": cover.cover_days,
    "established_by": cover.established_by,
    "not_ploughed": cover.not_ploughed,
    "mown": grass.mown,
    "not_mown": grass.not_mown,
    "harvested": arable.harvested,
    "tilled": arable.tilled,
    "not_tilled": arable.not_tilled,
}
