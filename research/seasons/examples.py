"""Parcels worth a figure in the report: what the monitor does well, what it does badly, and what it must leave alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from research.seasons.evaluate import ANSWERS, AlertEvaluation, Case, Watched


@dataclass(frozen=True)
class Example:
    """A parcel to show, and why."""

    parcel_id: str
    heading: str
    note: str


def choose(watched: Watched, evaluation: AlertEvaluation, events: pd.DataFrame) -> list[Example]:
    """Return an alert of each rule, a false one, a missed event, a mown grassland without alert, a cloudy parcel; each once.

    Args:
        events: parcel_id, kind, day of the true events.
    """
    found: dict[str, Example] = {}
    for example in _candidates(watched, evaluation, events):
        found.setdefault(example.parcel_id, example)
    return list(found.values())


def _candidates(watched: Watched, evaluation: AlertEvaluation, events: pd.DataFrame) -> Iterator[Example]:
    for rule in ANSWERS:
        if case := _best(evaluation, rule):
            how = "confirmed" if case.confirmed_on else "opened"
            yield Example(
                case.parcel_id,
                f"{rule.replace('_', ' ').capitalize()}, rightly {how}",
                f"Truth: {case.truth}. Evidence: {case.why}.",
            )
    false = [case for case in evaluation.cases if case.verdict == "false"]
    if false:
        case = max(false, key=lambda one: one.confirmed_on is not None)
        what = "confirmed" if case.confirmed_on else "opened and never confirmed"
        yield Example(
            case.parcel_id, f"A false alert: {case.rule}, {what}", f"Nothing happened here. Evidence: {case.why}."
        )
    if evaluation.missed:
        miss = evaluation.missed[len(evaluation.missed) // 2]
        yield Example(
            miss.parcel_id,
            f"A missed event: {miss.kind.replace('_', ' ')}",
            f"On {miss.happened_on}; no alert was raised.",
        )
    quiet = _quiet(watched, events)
    mown = events[(events["kind"] == "mowing") & events["parcel_id"].isin(quiet)]["parcel_id"].value_counts()
    if len(mown):
        yield Example(
            str(mown.index[0]),
            "A mown grassland",
            f"Cut {mown.iloc[0]} times (triangles), and no alert: mowing is management.",
        )
    if cloudy := _cloudiest(watched, quiet):
        yield Example(
            cloudy[0], "The cloudiest parcel", f"{cloudy[1]} clear views in the season; radar fills the gaps."
        )


def _best(evaluation: AlertEvaluation, rule: str) -> Case | None:
    """Return a right alert of a rule, a confirmed one if there is any."""
    right = [case for case in evaluation.cases if case.rule == rule and case.verdict == "right"]
    return max(right, key=lambda case: case.confirmed_on is not None, default=None)


def _quiet(watched: Watched, events: pd.DataFrame) -> set[str]:
    """Return monitorable parcels without an alert and without an event but mowing."""
    troubled = set(events[events["kind"] != "mowing"]["parcel_id"]) | {alert.source_id for alert in watched.alerts}
    return {one.source_id for one in watched.parcels if one.is_monitorable} - troubled


def _cloudiest(watched: Watched, quiet: set[str]) -> tuple[str, int] | None:
    """Return the quiet parcel with the fewest clear views, and their number."""
    keys, counts = np.unique(watched.views["parcel_key"], return_counts=True)
    views: Mapping[int, int] = dict(zip(keys.tolist(), counts.tolist(), strict=True))
    seen = {
        one.source_id: views[one.parcel_key]
        for one in watched.parcels
        if one.source_id in quiet and one.parcel_key in views
    }
    fewest = min(seen, key=lambda one: (seen[one], one), default=None)
    return None if fewest is None else (fewest, seen[fewest])
