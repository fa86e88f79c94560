"""Markers: the rules on what is known of the claimed parcels, and the findings that changed.

    crop_mismatch               along each new course of posteriors
    no_emergence, early_loss    where what they rest on may have changed: a Sentinel-2 observation is pending, the neighbours
                                or the declaration changed (a task), a mismatch or doubt began or ended, or nothing was found yet
    flooding                    of every claimed parcel: both sensors say it, or radar among flooded neighbours
    parts                       of every claimed parcel, from the splits of its views' pixel sets
    boundaries                  where drawn fields were compared with it, or its outline was amended (tasks)
    the policy's obligations    of every claimed parcel: also time that passes moves them
    what no policy asks now     of parcels of which the rules were asked for: obligations of earlier policies

A departure that is dated in a suppression window of the policy says so, and gives no alert; one that the policy does not let be red
is stored as yellow, with why. Both change the finding that is stored, never the verdict that a rule goes on from.
Reads the batch's series, `classified`, earlier findings and the progress of the crops. Adds `findings` to the batch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain

import numpy as np

from db import alerts as store
from db import markers
from db.alerts import FindingRow
from db.crop_progress import with_another_crop_before
from db.parcels import source_ids
from db.policies import stored_rules
from db.predictions import Posteriors as StoredPosteriors
from db.predictions import latest_posteriors
from monitor.alerts.boundaries import MARKER as BOUNDARIES
from monitor.alerts.flooding import flooding, is_read
from monitor.alerts.neighbours import Bools, CropStands, Ints
from monitor.alerts.parts import parts
from monitor.alerts.rules import (
    GREEN,
    NOT_EXECUTED,
    RULES,
    UNKNOWN,
    VERDICTS,
    VERSION,
    YELLOW,
    ClearViews,
    Finding,
    Found,
    Posteriors,
    crop_mismatch,
    early_loss,
    no_emergence,
    unless_doubted,
    unless_undeclared,
)
from monitor.alerts.settings import RuleSettings
from monitor.batch import BatchContext
from monitor.crop_progress import KnownStands
from monitor.flooded_land import low_neighbours
from monitor.policies.comparisons import compared_with_fields
from monitor.policies.courses import Compared, Decided, walked
from monitor.policies.known import Asked, Known, pixel_views, radar_views
from monitor.policies.obligations import decide, dropped
from monitor.policies.red import seen
from monitor.policies.suppression import suppressed, windows_of


def evaluate(batch: BatchContext, known: KnownStands) -> None:
    """Run the rules on the claimed parcels and store the findings that changed."""
    gone, asked = _no_longer_asked(batch), _asked(batch)
    rules = [*RULES, *(() if batch.policy is None else [one.name for one in batch.policy.obligation]), *gone]
    # A comparison with drawn fields and an amended outline make these due; of no other parcel is anything looked up.
    due = np.flatnonzero(batch.claim.is_due("rules") | batch.claim.is_due("classifier"))
    before = {
        **_before(batch, [one for one in rules if one != BOUNDARIES], np.arange(len(batch.claim.parcel_keys))),
        **_before(batch, [BOUNDARIES], due),
    }
    what_is_known = Known.of(batch.series, batch.season)
    compared = _compared(batch)
    mismatches = list(_mismatches(batch, compared, before["crop_mismatch"]))
    silence = _Silence.of(batch, compared, before["crop_mismatch"], mismatches)
    decided = chain(
        mismatches,
        _of_views(batch, known, before, what_is_known.views, silence),
        [_flooding(batch, what_is_known.views), _parts(batch), _boundaries(batch, before[BOUNDARIES], due)],
        _obligations(batch, asked, what_is_known),
        _dropped(before, gone),
    )
    changed = [one for what in decided for one in _changed(batch, what, before, asked)]
    changed += _windows_moved(batch, before["crop_mismatch"], asked)
    changed.sort(key=lambda one: (one[0].parcel_key, rules.index(one[1].rule)))
    batch.findings += changed
    if batch.recorded_at is not None:
        store.save_findings(batch.connection, [row for row, _ in changed], VERSION, batch.recorded_at)


def _before(batch: BatchContext, rules: Sequence[str], asked: Ints) -> Mapping[str, Found]:
    """Return what each rule found of the claimed parcels at some places before; `UNKNOWN` of the others."""
    keys = batch.claim.parcel_keys
    before = {rule: Found.nothing(len(keys)) for rule in rules}
    if not len(asked):
        return before
    rows = store.latest_findings(batch.connection, keys[asked], rules, VERDICTS)
    for nr, found in enumerate(before.values()):
        of_rule = rows[rows["rule_nr"] == nr]
        places = np.searchsorted(keys, of_rule["parcel_key"])
        found.verdict[places], found.departed_on[places] = of_rule["verdict_nr"], of_rule["departed_on"]
    return before


def _changed(
    batch: BatchContext, decided: Decided, before: Mapping[str, Found], asked: Asked
) -> Iterator[tuple[FindingRow, Finding]]:
    """Yield findings that differ from the stored ones.

    Findings are appended when outcome, colour or first departure change, of a departure also when its evidence does.
    """
    places, decisions, is_last = decided
    keys, found = batch.claim.parcel_keys[places].tolist(), decisions.found
    window = windows_of(batch.policy, asked, places, decisions.rule, found)
    differs = found.differs(before[decisions.rule].of(places))
    lasting = np.flatnonzero(is_last & ~differs & (found.verdict >= YELLOW)).tolist()
    stored = store.latest_departures(batch.connection, [keys[nr] for nr in lasting], decisions.rule) if lasting else {}
    for nr in [*np.flatnonzero(is_last & differs).tolist(), *lasting]:
        finding = seen(decisions.finding(nr), batch.policy, batch.season)
        if batch.policy is not None and window[nr] >= 0:
            finding = suppressed(finding, batch.policy, int(window[nr]))
        if differs[nr] or stored[keys[nr]].evidence != json.loads(json.dumps(dict(finding.evidence))):
            yield FindingRow(keys[nr], **finding.__dict__), finding


def _compared(batch: BatchContext) -> Compared | None:
    """Return what the posteriors are compared with, None where no classifier watches."""
    if batch.classifier is None:
        return None
    return Compared.of(batch.classifier.model, batch.parcels.crop_code, batch.policy)


def _mismatches(batch: BatchContext, compared: Compared | None, before: Found) -> Iterator[Decided]:
    """Yield the rule along courses of posteriors, so that it finds the same after a pause as acquisition by acquisition."""
    rules, classified, keys = batch.settings.rules, batch.classified, batch.claim.parcel_keys
    if compared is None or classified is None:
        decisions = crop_mismatch([None] * len(keys), None, before, rules)
        yield np.arange(len(keys)), decisions, np.ones(len(keys), bool)
        return
    course = classified.posteriors
    begins, ends = (np.searchsorted(course.parcel_key, keys, side=side) for side in ("left", "right"))
    is_rebuilt = np.isin(keys, classified.rebuilt)
    # Rebuilt and without a course: all that was observed has been withdrawn.
    yield compared.unseen(np.flatnonzero(is_rebuilt & (begins == ends)), rules)
    posteriors = _judged(compared, course)
    found = Found(np.where(is_rebuilt, UNKNOWN, before.verdict), before.departed_on)
    yield from walked(compared, posteriors, (begins, ends), found, rules)


def _judged(compared: Compared, course: StoredPosteriors) -> Posteriors:
    """Return posteriors as the rules take them."""
    return Posteriors(
        compared.classes, course.probabilities, course.n_observations.sum(axis=1), course.observed_to.astype("M8[D]")
    )


@dataclass(frozen=True)
class _Silence:
    """Of which of the claimed parcels nothing, or no departure, is found by comparing their views with those of neighbours."""

    compared: Compared | None
    mismatch: Ints
    """(P,) the verdict of `crop_mismatch` once it was decided."""
    has_turned: Bools
    """(P,) whether a mismatch began or ended."""
    is_anew: Bools
    """(P,) whether the batch found a new posterior."""
    is_doubted: Bools
    """(P,) by that posterior."""

    @classmethod
    def of(
        cls, batch: BatchContext, compared: Compared | None, before: Found, mismatches: Iterable[Decided]
    ) -> "_Silence":
        """Return what the batch itself says, of mismatches found before and decided now."""
        verdict = before.verdict.copy()
        for places, decisions, _ in mismatches:
            verdict[places] = decisions.found.verdict
        is_anew, is_doubted = np.zeros((2, len(verdict)), bool)
        if compared is not None and batch.classified is not None:
            newest = batch.classified.posteriors.where(batch.classified.posteriors.is_last)
            places = np.searchsorted(batch.claim.parcel_keys, newest.parcel_key)
            is_anew[places] = True
            is_doubted[places] = compared.doubted(places, _judged(compared, newest), batch.settings.rules)
        has_turned = (verdict >= YELLOW) != (before.verdict >= YELLOW)
        return cls(compared, verdict, has_turned, is_anew, is_doubted & (verdict == GREEN))

    @property
    def is_other_crop(self) -> Bools:
        """Return (P,) of which parcels a mismatch is open."""
        return np.asarray(self.mismatch >= YELLOW)

    def doubted(self, batch: BatchContext, places: Ints) -> Bools:
        """Return (N,) which of the parcels at places are doubted; posteriors of earlier batches are read."""
        is_doubted = self.is_doubted[places]
        earlier = np.flatnonzero(~self.is_anew[places] & (self.mismatch[places] == GREEN))
        if self.compared is None or batch.classifier is None or not len(earlier):
            return is_doubted
        keys = batch.claim.parcel_keys[places]
        rows = latest_posteriors(batch.connection, keys[earlier], batch.classifier.key, None)
        if rows:
            at = np.searchsorted(keys, [one.parcel_key for one in rows])
            posteriors = Posteriors(
                self.compared.classes,
                np.array([one.probabilities for one in rows], np.float32),
                np.array([sum(one.n_observations.values()) for one in rows]),
                np.array([one.observed_to.replace(tzinfo=None) for one in rows], "M8[D]"),
            )
            is_doubted[at] = self.compared.doubted(places[at], posteriors, batch.settings.rules)
        return is_doubted


def _of_views(
    batch: BatchContext, known: KnownStands, before: Mapping[str, Found], views: ClearViews, silence: _Silence
) -> Iterator[Decided]:
    """Yield the rules on clear views, of parcels of which they may find something else than before.

    Views later than what is known of the neighbours wait until they are known (then the leader asks for the rules again).
    """
    rules, claim, connection = batch.settings.rules, batch.claim, batch.connection
    groups, group = batch.neighbours(known)
    stands = groups.stands
    has_turned = silence.has_turned | _doubt_turned(before, silence, stands, group, rules)
    places = np.flatnonzero(_may_differ(batch, before) | has_turned)
    if not len(places):
        return
    group = group[places]
    views = views.of(places).until(stands.known_until[group])
    # Among neighbours that were bare it makes no difference.
    matters = claim.parcel_keys[places[(stands.n[group] >= rules.neighbours_min) & ~stands.is_ever_bare[group]]]
    newly_sown = with_another_crop_before(connection, matters) if len(matters) else frozenset()
    is_new_stand = np.isin(claim.parcel_keys[places], list(newly_sown))
    is_other = silence.is_other_crop[places]
    both = (
        no_emergence(views, stands, group, is_other, rules),
        early_loss(views, stands, group, is_other, is_new_stand, rules),
    )
    # The posterior matters, and is read, only of the few parcels that depart.
    departs = np.flatnonzero(np.any([one.found.verdict >= YELLOW for one in both], axis=0))
    is_doubted = np.zeros(len(places), bool)
    is_doubted[departs] = silence.doubted(batch, places[departs])
    declared = [batch.parcels.crop_code[nr] for nr in places.tolist()]
    for decisions in both:
        decided = unless_doubted(unless_undeclared(decisions, declared), is_doubted, rules)
        yield places, decided, np.ones(len(places), bool)


def _doubt_turned(
    before: Mapping[str, Found], silence: _Silence, stands: CropStands, group: Ints, rules: RuleSettings
) -> Bools:
    """Return (P,) where a departure that was found is doubted now, or one that was not executed may be doubted no more."""
    on_views = before["no_emergence"].verdict, before["early_loss"].verdict
    has_turned: Bools = silence.is_doubted & np.any([one >= YELLOW for one in on_views], axis=0)
    may_end = silence.is_anew & ~silence.is_doubted & (silence.mismatch == GREEN)
    # Of most that are not executed the reason lies in their neighbours, which are as they were.
    n_groups = len(stands.n)
    nothing = ClearViews(np.zeros(0, np.int64), np.zeros(0, "M8[D]"), np.zeros(0, np.float32), n_groups)
    everyone, none = np.arange(n_groups), np.zeros(n_groups, bool)
    unseen = (
        no_emergence(nothing, stands, everyone, none, rules),
        early_loss(nothing, stands, everyone, none, none, rules),
    )
    for verdict, of_group in zip(on_views, unseen, strict=True):
        has_turned |= may_end & (verdict == NOT_EXECUTED) & (of_group.found.verdict[group] != NOT_EXECUTED)
    return has_turned


def _flooding(batch: BatchContext, views: ClearViews) -> Decided:
    """Return the rule on both sensors and on flooded neighbours; radar is read of the few parcels that need it."""
    n_parcels, around = len(batch.claim.parcel_keys), low_neighbours(batch.connection, batch.claim.parcel_keys)
    radar = radar_views(batch.series, batch.season.starts_on, is_read(views, around))
    return np.arange(n_parcels), flooding(views, radar, around), np.ones(n_parcels, bool)


def _parts(batch: BatchContext) -> Decided:
    """Return the rule on pixel sets."""
    n_parcels = len(batch.claim.parcel_keys)
    return np.arange(n_parcels), parts(pixel_views(batch.series, batch.season.starts_on)), np.ones(n_parcels, bool)


def _boundaries(batch: BatchContext, before: Found, due: Ints) -> Decided:
    """Return the rule on drawn fields, of the due parcels that any were compared with."""
    keys = batch.claim.parcel_keys
    newest = dict(markers.every(batch.connection, keys[due], BOUNDARIES)) if len(due) else {}
    return compared_with_fields(batch.connection, keys, newest, before)


def _asked(batch: BatchContext) -> Asked:
    """Return the claimed parcels as the policy's selections see them."""
    policy, keys = batch.policy, batch.claim.parcel_keys
    selections = [] if policy is None else [one.parcels for one in policy.obligation]
    selections += [] if policy is None else [one.parcels for one in policy.suppress]
    is_listed = any(one.source_ids is not None for one in selections)
    return Asked(batch.parcels, source_ids(batch.connection, keys) if is_listed else [""] * len(keys))


def _windows_moved(batch: BatchContext, before: Found, asked: Asked) -> Iterator[tuple[FindingRow, Finding]]:
    """Yield the mismatches found before that another policy's windows or thresholds now hold, or hold no longer.

    Only new acquisitions decide that rule anew; all others are decided of every parcel of which the rules are asked for.
    """
    policy, claim, classified = batch.policy, batch.claim, batch.classified
    if policy is None or classified is None:
        return
    is_anew = np.isin(claim.parcel_keys, classified.posteriors.parcel_key) | np.isin(
        claim.parcel_keys, classified.rebuilt
    )
    places = np.flatnonzero(claim.is_due("rules") & ~is_anew & (before.verdict >= YELLOW))
    stored = store.latest_departures(batch.connection, claim.parcel_keys[places].tolist(), "crop_mismatch")
    for nr, window in zip(
        places.tolist(), windows_of(policy, asked, places, "crop_mismatch", before.of(places)), strict=True
    ):
        row = stored[int(claim.parcel_keys[nr])]
        stated = Finding(**{one.name: getattr(row, one.name) for one in fields(Finding)})
        finding = suppressed(seen(stated, policy, batch.season), policy, int(window))
        if finding.evidence != row.evidence:
            yield replace(row, colour=finding.colour, evidence=finding.evidence), finding


def _no_longer_asked(batch: BatchContext) -> list[str]:
    """Return obligations of earlier policies that the one in force does not have; nothing where the rules were not asked for."""
    claim, policy = batch.claim, batch.policy
    if policy is None or not claim.is_due("rules").any():
        return []
    now = {one.name for one in policy.obligation}
    return sorted(set(stored_rules(batch.connection, (claim.season_key, claim.collection))) - now)


def _dropped(before: Mapping[str, Found], gone: Iterable[str]) -> Iterator[Decided]:
    """Yield of obligations that are not asked any more that they are not, of parcels of which something was found."""
    for rule in gone:
        places = np.flatnonzero(before[rule].verdict > NOT_EXECUTED)
        yield places, dropped(rule, len(places)), np.ones(len(places), bool)


def _obligations(batch: BatchContext, asked: Asked, known: Known) -> Iterator[Decided]:
    """Yield each obligation of the policy in force."""
    policy, keys = batch.policy, batch.claim.parcel_keys
    if policy is None or not policy.obligation:
        return
    for decisions in decide(policy, asked, known):
        yield np.arange(len(keys)), decisions, np.ones(len(keys), bool)


def _may_differ(batch: BatchContext, before: Mapping[str, Found]) -> Bools:
    """Return (P,) parcels whose views, neighbours or declaration may be others than when their views were last judged.

    A view that is later than what is known of the neighbours needs no mark here: the leader asks for the rules when it
    comes to know them, and an amended declaration asks for the classifier.
    """
    claim, observations = batch.claim, batch.claim.observations
    is_viewed = np.isin(claim.parcel_keys, observations["parcel_key"][observations["is_s2"]])
    is_unknown = (before["no_emergence"].verdict == UNKNOWN) | (before["early_loss"].verdict == UNKNOWN)
    may_differ: Bools = is_viewed | is_unknown | claim.is_due("rules") | claim.is_due("classifier")
    return may_differ
