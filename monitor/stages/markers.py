"""Markers: every rule on what is known of each claimed parcel, and the findings that changed.

Reads the batch's views, `classified`, earlier findings and the progress of the crops. Adds `findings` to the batch.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from db import alerts as store
from db.alerts import FindingRow
from db.crop_progress import ProgressRow, with_another_crop_before
from db.crop_progress import load as load_progress
from db.predictions import PosteriorRow
from db.seasons import previous_season
from monitor.alerts.rules import (
    RULES,
    VERSION,
    ClearViews,
    Finding,
    Neighbours,
    Posterior,
    crop_mismatch,
    early_loss,
    no_emergence,
    nothing_observed,
)
from monitor.batch import BatchContext
from monitor.crop_progress import neighbours


def evaluate(batch: BatchContext) -> None:
    """Run every rule on the claimed parcels and store the findings that changed."""
    connection, rules, series = batch.connection, batch.settings.rules, batch.series
    previous = store.latest_findings(connection, batch.claim.parcel_keys)
    progress, progress_before = _progress(batch)
    newly_sown = with_another_crop_before(connection, batch.claim.parcel_keys)
    bounds = np.searchsorted(series.view_parcel, np.arange(len(batch.parcels) + 1))
    days = np.datetime64(batch.season.starts_on) + np.floor(series.views["day"]).astype("m8[D]")
    for nr, parcel in enumerate(batch.parcels):
        key, own = parcel.parcel_key, slice(bounds[nr], bounds[nr + 1])
        near = neighbours(progress, progress_before, parcel.region, parcel.crop_code, batch.season.starts_on, rules)
        views = clear_views(days[own], series.views["ndvi"][own], near)
        before = {rule: _finding(previous.get((key, rule))) for rule in RULES}
        found = [no_emergence(views, near, rules), early_loss(views, near, key in newly_sown, rules)]
        if batch.classified is None or key in batch.classified.courses or key in batch.classified.rebuilt:
            found.insert(0, _mismatch(batch, key, parcel.crop_code, before["crop_mismatch"]))
        batch.findings += [
            (FindingRow(key, **finding.__dict__), finding)
            for finding in found
            if not _is_same(before[finding.rule], finding)
        ]
    if batch.recorded_at is not None:
        store.save_findings(connection, [row for row, _ in batch.findings], VERSION, batch.recorded_at)


Progress = Mapping[tuple[str, str], ProgressRow]


def _progress(batch: BatchContext) -> tuple[Progress, Progress]:
    """Return how the crops stand this season, and how they stood in the season before."""
    connection, season, collection = batch.connection, batch.season, batch.claim.collection
    earlier = previous_season(connection, collection, season)
    before = {} if earlier is None else load_progress(connection, earlier.season_key, collection)
    return load_progress(connection, season.season_key, collection), before


def _mismatch(batch: BatchContext, key: int, crop_code: str | None, before: Finding | None) -> Finding:
    """Return the rule along the course of posteriors, so that it finds the same after a pause as acquisition by acquisition."""
    rules = batch.settings.rules
    if batch.classifier is None or batch.classified is None:
        return crop_mismatch(None, None, before, rules)
    model = batch.classifier.model
    declared = model.about.get("class_of", {}).get(crop_code)
    finding = None if key in batch.classified.rebuilt else before
    course = [_posterior(row, model.config.classes) for row in batch.classified.courses.get(key, ())]
    for posterior in course:
        finding = crop_mismatch(declared, posterior, finding, rules)
    # Rebuilt and without a course: all that was observed has been withdrawn.
    return finding if course and finding is not None else nothing_observed(declared, rules)


def _posterior(row: PosteriorRow, classes: Sequence[str]) -> Posterior:
    """Return a posterior as the rule takes it."""
    n_observations = sum(row.n_observations.values())
    return Posterior(classes, np.asarray(row.probabilities, np.float32), n_observations, row.observed_to.date())


def clear_views(days: NDArray[np.datetime64], ndvi: NDArray[np.float32], neighbours: Neighbours | None) -> ClearViews:
    """Return the clear views of one parcel; two passes on a day count as one, the greener one: cloud only lowers NDVI.

    Views later than what is known of the neighbours wait until they are known (then the leader asks for the rules again).
    """
    if neighbours is not None:
        is_known = days < np.datetime64(neighbours.first_day) + len(neighbours.standing_share)
        days, ndvi = days[is_known], ndvi[is_known]
    days, first = np.unique(days, return_index=True)
    return ClearViews(days, np.maximum.reduceat(ndvi, first) if len(first) else ndvi)


def _is_same(old: Finding | None, new: Finding) -> bool:
    """Findings are appended when outcome, colour or first departure change, of a departure also when its evidence does."""
    if old is None or (old.outcome, old.colour, old.departed_on) != (new.outcome, new.colour, new.departed_on):
        return False
    return new.departed_on is None or old.evidence == json.loads(json.dumps(dict(new.evidence)))


def _finding(row: FindingRow | None) -> Finding | None:
    return None if row is None else Finding(**{k: v for k, v in row.__dict__.items() if k != "parcel_key"})
