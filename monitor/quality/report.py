"""The quality of lights, from a reviewed random sample; and, apart from it, what people decided on alerts.

Of the sample, weighted by its inclusion probabilities, per rule and region, each as a share of parcels, of hectares and per 1,000 parcels:

    false reds, false yellows    of the parcels with that light, those that do not depart
    false greens                 of the green parcels, those that depart
    missed undecided             of the parcels that a rule could not decide or did not apply to, those that depart
    found red, found             of the parcels that depart, those that are red; red or yellow
    wrong lights                 of all parcels, those that any of the first four counts: what the sample's size was chosen for

An alert that somebody decided on was selected, by its confidence or by who complained: shares of such verdicts speak of those alerts alone
and are never added to the sample's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from db.quality import AlertVerdictRow, DrawnRow, StoredSampleRow, StratumRow, VerdictRow
from db.rounds import NOTHING_FOUND
from monitor.quality import estimates
from monitor.quality.estimates import FEWEST, Design, Floats, Share
from monitor.quality.verdicts import UNDECIDED, departs, newest_of_each, settled

OVERALL: Final = "any rule"
FIGURES: Final[Mapping[str, tuple[tuple[str, ...], bool]]] = {
    "false_reds": (("red",), False),
    "false_yellows": (("yellow",), False),
    "false_greens": (("green",), True),
    "missed_undecided": (("not_valid", "not_executed"), True),
}
"""Of which lights each figure is, and whether its hits are the parcels that depart."""
DEPARTING: Final = ("red", "yellow")
FOUND: Final[Mapping[str, tuple[str, ...]]] = {"found_red": ("red",), "found": DEPARTING}
BUDGETS: Final = (0.01, 0.02, 0.04, 0.1)
"""Inspections as shares of all parcels, where no numbers are given; 4 % is what the benchmark of alerts uses."""


@dataclass(frozen=True)
class Reviewed:
    """The parcels of a sample with a decided verdict, as columns (n,)."""

    design: Design
    region: np.ndarray[Any, Any]
    area_ha: Floats
    lights: Mapping[str, np.ndarray[Any, Any]]
    """By rule; of OVERALL the parcel's own."""
    departs: Mapping[str, Floats]
    """1 where the parcel departs as the rule claims, else 0; by rule."""
    inbox_rank: Floats
    """Infinite where no alert was open."""


def of_sample(
    sample: StoredSampleRow,
    strata: Sequence[StratumRow],
    drawn: Sequence[DrawnRow],
    verdicts: Iterable[VerdictRow],
    budgets: Sequence[int],
) -> dict[str, Any]:
    """Return the report of one sample, as it is written as JSON.

    Args:
        budgets: numbers of inspections; none: shares of the parcels (`BUDGETS`).
    """
    given = defaultdict[int, list[VerdictRow]](list)
    for one in verdicts:
        given[one.item].append(one)
    by_reviewer = {item: newest_of_each(its) for item, its in given.items()}
    verdict_of = {item: settled(list(its.values())) for item, its in by_reviewer.items()}
    decided = [one for one in drawn if verdict_of.get(one.item, "cannot_tell") not in UNDECIDED]
    reviewed = _columns(decided, verdict_of, strata)
    names = (
        "sample_key",
        "season",
        "collection",
        "as_known_at",
        "seed",
        "allocation",
        "confidence",
        "n_parcels",
        "n_sampled",
    )
    return {name: getattr(sample, name) for name in names} | {
        "month": f"{sample.as_known_at:%Y-%m}",
        "n_decided": len(decided),
        "n_cannot_tell": sum(one == "cannot_tell" for one in verdict_of.values()),
        "disputed": sorted(item for item, one in verdict_of.items() if one == "disputed"),
        "n_not_represented": reviewed.design.n_unseen,
        "agreement": _agreement(by_reviewer),
        "figures": list(_figures(reviewed, sample.confidence)),
        "lift": _lift(reviewed, sample, drawn, budgets),
    }


def _columns(decided: Sequence[DrawnRow], verdict_of: Mapping[int, str], strata: Sequence[StratumRow]) -> Reviewed:
    lights = sorted({one.light for one in strata})
    design = estimates.design(
        np.array([one.stratum_nr for one in decided], np.int64),
        np.array([one.n_parcels for one in strata], np.int64),
        np.array([lights.index(one.light) for one in strata], np.int64),
    )
    rules: list[str | None] = [None, *sorted({rule for one in decided for rule in one.lights})]
    return Reviewed(
        design=design,
        region=np.array([one.region for one in decided], object),
        area_ha=np.array([one.area_ha for one in decided], np.float64),
        lights={
            rule or OVERALL: np.array(
                [one.light if rule is None else one.lights.get(rule, NOTHING_FOUND) for one in decided], object
            )
            for rule in rules
        },
        departs={
            rule or OVERALL: np.array([departs(verdict_of[one.item], rule) for one in decided], np.float64)
            for rule in rules
        },
        inbox_rank=np.array([np.inf if one.inbox_rank is None else one.inbox_rank for one in decided], np.float64),
    )


def _figures(reviewed: Reviewed, confidence: float) -> Iterable[dict[str, Any]]:
    """Yield the figures of each rule, over all regions first."""
    ones = np.ones(len(reviewed.region))
    for rule, light in reviewed.lights.items():
        departing = reviewed.departs[rule]
        for region in (None, *sorted(set(reviewed.region))):
            here = ones if region is None else (reviewed.region == region).astype(np.float64)
            cell: dict[str, Any] = {"rule": rule, "region": region, "n_verdicts": int(here.sum())}
            for name, (lights, is_departing) in FIGURES.items():
                counted = here * np.isin(light, lights)
                hit = counted * (departing if is_departing else 1 - departing)
                cell[name] = _shares(reviewed, hit, counted, here, confidence)
            is_said = np.isin(light, DEPARTING)
            wrong = here * np.where(is_said, 1 - departing, departing)
            cell["wrong_lights"] = _shares(reviewed, wrong, here, here, confidence)
            for name, lights in FOUND.items():
                counted = here * departing
                cell[name] = _shares(reviewed, counted * np.isin(light, lights), counted, None, confidence)
            yield cell


def _shares(
    reviewed: Reviewed, hit: Floats, counted: Floats, all_here: Floats | None, confidence: float
) -> dict[str, Any]:
    """Return a share of parcels and of hectares, and how many are hit of each 1,000 parcels."""
    area = reviewed.area_ha
    shares = {
        "of_parcels": estimates.share(reviewed.design, hit, counted, confidence),
        "of_area": estimates.share(reviewed.design, hit * area, counted * area, confidence),
    }
    if all_here is not None:
        shares["per_1000_parcels"] = estimates.share(reviewed.design, hit, all_here, confidence).times(1000)
    return {name: said(one) for name, one in shares.items()}


def said(one: Share) -> dict[str, Any]:
    """Return a share as it is written: of too few verdicts that they are too few, and no number."""
    return {"n": one.n, "too_few": True} if one.value is None else {**asdict(one), "too_few": False}


def _lift(
    reviewed: Reviewed, sample: StoredSampleRow, drawn: Sequence[DrawnRow], budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """Return what share of the parcels that depart the first inspections by the list of alerts find, against as many at random."""
    ranks = [one.inbox_rank for one in drawn if one.inbox_rank is not None]
    departing = reviewed.departs[OVERALL]
    found = []
    for budget in budgets or [max(1, round(share * sample.n_parcels)) for share in BUDGETS]:
        hit = departing * (reviewed.inbox_rank <= budget)
        share = estimates.share(reviewed.design, hit, departing, sample.confidence)
        at_random = min(budget / sample.n_parcels, 1.0)
        found.append(
            {
                "inspections": budget,
                "at_random": at_random,
                "found": said(share),
                "lift": said(share.times(1 / at_random)),
                "n_sampled_in_inbox": sum(rank <= budget for rank in ranks),
            }
        )
    return found


def _agreement(by_reviewer: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
    """Return how often the first two reviewers of a parcel agree, and Cohen's kappa."""
    pairs = [tuple(its.values())[:2] for its in by_reviewer.values() if len(its) > 1]
    if len(pairs) < FEWEST:
        return {"n": len(pairs), "too_few": True}
    first, second = [one[0] for one in pairs], [one[1] for one in pairs]
    agreed = sum(one == other for one, other in zip(first, second, strict=True)) / len(pairs)
    return {"n": len(pairs), "too_few": False, "agreed": agreed, "kappa": estimates.kappa(first, second)}


def of_alerts(rows: Sequence[AlertVerdictRow], confidence: float) -> list[dict[str, Any]]:
    """Return of the alerts that people decided on how many were false, per rule, region and month of the departure.

    Region and month are None where a line is over all of them.
    """
    cells = defaultdict[tuple[str, str | None, str | None], list[AlertVerdictRow]](list)
    for one in rows:
        for region in (None, one.region):
            for month in (None, f"{one.departed_on:%Y-%m}"):
                cells[one.rule, region, month].append(one)
    found = []
    for rule, region, month in sorted(cells, key=lambda key: (key[0], key[1] or "", key[2] or "")):
        its = cells[rule, region, month]
        cell: dict[str, Any] = {"rule": rule, "region": region, "month": month, "is_selected": True}
        for name, colour in (("false_reds", "red"), ("false_yellows", "yellow")):
            of_colour = [one for one in its if one.colour == colour]
            n_false = sum(not one.is_true for one in of_colour)
            cell[name] = said(estimates.simple_share(n_false, len(of_colour), confidence))
        found.append(cell)
    return found
