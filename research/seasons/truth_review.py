"""A reviewer who knows what truly happened in a simulated season, and errs as often as wanted: verdicts for a random sample."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

import numpy as np

from db.quality import FormRow, VerdictRow
from monitor.quality.verdicts import CHOICES, Verdict
from training.metrics import Event

SHOWN_BY: Final[Mapping[str, Verdict]] = {
    "wrong_declaration": "other_crop",
    "no_emergence": "not_emerged",
    "flood": "flooded",
    "early_loss": "lost",
    "grassland_ploughed": "lost",
}
"""The verdict that each kind of event is; of several on a parcel the first named here. Others, as mowing, depart from nothing."""


def verdicts(
    rows: Sequence[FormRow], events: Iterable[Event], day: date, reviewer: str, mistakes: float = 0.0, seed: int = 0
) -> list[VerdictRow]:
    """Return a verdict on each parcel of a sample.

    Args:
        events: what truly happened.
        day: of the sample: what happened later is no departure yet; a wrong declaration is wrong from the first day.
        mistakes: share of verdicts that are replaced by another, at random.
    """
    happened: dict[str, set[str]] = {}
    for one in events:
        if one.happened_on <= day or one.kind == "wrong_declaration":
            happened.setdefault(one.parcel_id, set()).add(one.kind)
    rng, found = np.random.default_rng(seed), list[VerdictRow]()
    for row in rows:
        own = happened.get(row.source_id, set())
        verdict = next((it for kind, it in SHOWN_BY.items() if kind in own), "as_declared")
        if rng.random() < mistakes:
            verdict = rng.choice([one for one in CHOICES if one not in (verdict, "cannot_tell")])
        found.append(VerdictRow(row.item, str(verdict), reviewer, "known from the simulation"))
    return found
