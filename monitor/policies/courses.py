"""Courses of posteriors, along which `crop_mismatch` is decided: one step of all parcels at a time.

    worker   the course of each claimed parcel's new acquisitions, from what was found before
    trial    day by day the courses as they were known then, from what was found the day before

Where an acquisition came late, was revised or withdrawn, the whole course is another and is walked from its begin: what is
found follows from what is known and not from how it came.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from db import registry
from db.connect import Connection
from db.predictions import every_posterior
from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from models.classifier.cross_fitted import classifier_of
from monitor.acquisitions import acquisition_keys
from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import UNKNOWN, Decisions, Found, Posteriors, crop_mismatch, doubted, nothing_observed
from monitor.alerts.settings import RuleSettings
from monitor.policies.paid_alike import summed, taken_together
from monitor.policies.policy import Policy
from monitor.season_series import NEVER

Decided = tuple[Ints, Decisions, Bools]
"""Places (N,) of parcels, what a rule decides of them, and of which of them that is the last word (N,)."""


@dataclass(frozen=True)
class Compared:
    """What the rule compares: the model's classes and the declared ones of P parcels, those that are paid alike as one."""

    classes: Sequence[str]
    """(C,) of the model."""
    names: Sequence[str]
    """(C,) by which they are compared."""
    declared: Sequence[str | None]
    """(P,)"""

    @classmethod
    def of(cls, model: CropModel, crop_codes: Sequence[str | None], policy: Policy | None) -> "Compared":
        """Return the classes of a model beside those of declared crops."""
        class_of = model.about.get("class_of", {})
        declared = [class_of.get(code) for code in crop_codes]
        classes = model.config.classes
        return cls(classes, *taken_together(classes, declared, () if policy is None else policy.paid_alike))

    def unseen(self, places: Ints, settings: RuleSettings) -> Decided:
        """Return what is decided of parcels whose observations have all been withdrawn."""
        return places, nothing_observed(self._of(places), settings), np.ones(len(places), bool)

    def decide(self, places: Ints, posteriors: Posteriors, before: Found, settings: RuleSettings) -> Decisions:
        """Return what is decided of the parcels at places by their posteriors."""
        return crop_mismatch(self._of(places), summed(posteriors, self.names), before, settings)

    def doubted(self, places: Ints, posteriors: Posteriors, settings: RuleSettings) -> Bools:
        """Return (N,) which of the parcels at places (N,) are doubted by their newest posteriors."""
        return doubted(self._of(places), summed(posteriors, self.names), settings)

    def _of(self, places: Ints) -> list[str | None]:
        return [self.declared[place] for place in places.tolist()]


def walked(
    compared: Compared, posteriors: Posteriors, course: tuple[Ints, Ints], before: Found, settings: RuleSettings
) -> Iterator[Decided]:
    """Yield what is decided after each step of courses.

    Args:
        compared: P parcels.
        posteriors: of all courses.
        course: (P,) where the course of each parcel begins and ends in them.
        before: (P,) what was found before its first step.
        settings: thresholds.
    """
    begins, ends = course
    lengths, found = ends - begins, Found(before.verdict.copy(), before.departed_on.copy())
    for step in range(lengths.max(initial=0)):
        places = np.flatnonzero(lengths > step)
        decisions = compared.decide(places, posteriors.of(begins[places] + step), found.of(places), settings)
        found.verdict[places], found.departed_on[places] = decisions.found.verdict, decisions.found.departed_on
        yield places, decisions, lengths[places] == step + 1


@dataclass
class KnownCourses:
    """The stored posteriors of P parcels by one model, of which each is known from some time on."""

    compared: Compared
    rows: NDArray[np.void]
    """(N,) as `db.predictions.every_posterior`."""
    place: Ints
    """(N,) of the parcel, ascending."""
    known_at: NDArray[np.datetime64]
    """(N,) ascending among those of one parcel and acquisition."""
    is_doubted: Bools = field(init=False)
    """(P,) by the newest posterior that was known at the end of the last call of `between`."""
    _walked_to: NDArray[np.datetime64] = field(init=False)
    """(P,) the last acquisition of each parcel that was walked."""
    _gone: NDArray[np.void] = field(init=False)

    def __post_init__(self) -> None:
        n_parcels = len(self.compared.declared)
        self.is_doubted, self._walked_to = np.zeros(n_parcels, bool), np.full(n_parcels, NEVER)
        self._gone = acquisition_keys(np.zeros(0, np.int64), np.zeros(0, "M8[us]"))

    @classmethod
    def read(
        cls,
        connection: Connection,
        model_key: int,
        keys: Ints,
        crop_codes: Sequence[str | None],
        policy: Policy,
        available: NDArray[np.void] | None = None,
    ) -> "KnownCourses":
        """Read the courses of parcels.

        Args:
            model_key: by which classifier.
            keys: (P,) ascending.
            crop_codes: (P,) declared.
            policy: says what is paid alike.
            available: the parcels' current observations with available_at, if a posterior counts as known once all that it rests on
                could be had; None: once it was recorded.
        """
        model = classifier_of(Checkpoint(*registry.checkpoint(connection, model_key)))
        rows = every_posterior(connection, keys, model_key, len(model.config.classes))
        known_at = rows["recorded_at"]
        if available is not None:
            rows = rows[_is_last(rows)]
            known_at = _available_at(rows, available)
            rows, known_at = rows[~np.isnat(known_at)], known_at[~np.isnat(known_at)]
        compared = Compared.of(model, crop_codes, policy)
        return cls(compared, rows, np.searchsorted(keys, rows["parcel_key"]), known_at)

    def between(
        self, time: tuple[np.datetime64, np.datetime64], gone: NDArray[np.void], before: Found, settings: RuleSettings
    ) -> Iterator[Decided]:
        """Yield what is decided along what became known from one time to another, the latter not included.

        Args:
            time: both; each call begins where the one before ended.
            gone: acquisitions (`acquisition_keys`) of which all observations are withdrawn, as known then.
            before: (P,) what was found at the end of the call before.
            settings: thresholds.
        """
        (since, until), n_parcels, place = time, len(self.compared.declared), self.place
        new = np.flatnonzero((self.known_at >= since) & (self.known_at < until))
        is_anew = np.zeros(n_parcels, bool)
        is_anew[place[new[self.rows["observed_to"][new] <= self._walked_to[place[new]]]]] = True
        keys = self.rows["parcel_key"]
        if len(moved := np.setxor1d(gone, self._gone)):
            is_anew[place[np.isin(keys, moved["parcel_key"])]] = True
        self._gone = gone
        some = new
        if is_anew.any():
            some = np.union1d(new, np.flatnonzero((self.known_at < until) & is_anew[place]))
        rows, at = self.rows[some], place[some]
        kept = _is_last(rows)
        if len(gone):
            kept &= ~np.isin(acquisition_keys(rows["parcel_key"], rows["observed_to"]), gone)
        rows, at = rows[kept], at[kept]
        begins, ends = (np.searchsorted(at, np.arange(n_parcels), side=side) for side in ("left", "right"))
        yield self.compared.unseen(np.flatnonzero(is_anew & (begins == ends)), settings)
        self._walked_to[is_anew] = NEVER
        self._walked_to[at] = rows["observed_to"]  # of equal indices the last assignment stays
        posteriors = Posteriors(
            self.compared.classes, rows["probabilities"], rows["n_observations"], rows["observed_to"].astype("M8[D]")
        )
        newest, self.is_doubted[is_anew] = np.flatnonzero(begins < ends), False
        self.is_doubted[newest] = self.compared.doubted(newest, posteriors.of(ends[newest] - 1), settings)
        found = Found(np.where(is_anew, UNKNOWN, before.verdict), before.departed_on)
        yield from walked(self.compared, posteriors, (begins, ends), found, settings)


def _is_last(rows: NDArray[np.void]) -> Bools:
    """Return (N,) which sorted posteriors are the last recorded of their parcel and acquisition."""
    keys = acquisition_keys(rows["parcel_key"], rows["observed_to"])
    return np.append(keys[1:] != keys[:-1], True)[: len(rows)]


def _available_at(rows: NDArray[np.void], observed: NDArray[np.void]) -> NDArray[np.datetime64]:
    """Return (N,) when all that a posterior rests on could be had: its parcel's observations up to its acquisition; NaT: withdrawn."""
    order = np.lexsort((observed["observed_at"], observed["parcel_key"]))
    keys = acquisition_keys(observed["parcel_key"][order], observed["observed_at"][order])
    had = observed["available_at"][order].astype(np.int64)
    first = had.min(initial=np.iinfo(np.int64).max)
    # The latest so far of each parcel: parcels are set apart by more than all that they have.
    _, parcel = np.unique(keys["parcel_key"], return_inverse=True)
    apart = parcel * (had.max(initial=0) - first + 1)
    latest = (np.maximum.accumulate(had - first + apart) - apart + first).astype("M8[us]")
    wanted = acquisition_keys(rows["parcel_key"], rows["observed_to"])
    last = np.searchsorted(keys, wanted, side="right") - 1  # several passes of one time
    is_there = last >= 0
    is_there[is_there] = keys[last[is_there]] == wanted[is_there]
    at = np.full(len(rows), np.datetime64("NaT", "us"))
    at[is_there] = latest[last[is_there]]
    return at
