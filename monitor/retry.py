"""Retries of batches that failed: at once where another worker was faster, else parcel by parcel.

    outrun by another worker     the whole batch again, at once
    anything else                each parcel in a transaction of its own; those that fail are postponed with their error

A single poisoned parcel so cannot hold up the others. Where all fail, nothing more is tried: that is no poisoned parcel but
a broken model, or a full disk. A database that is away is no failure of a batch: it is raised, and the caller waits.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from db import work
from db.connect import Connection
from db.errors import DATABASE_ERRORS, is_outrun
from db.work import Claim
from monitor.batch import Counts
from monitor.errors import NothingWorks
from monitor.settings import MonitorSettings

log = logging.getLogger(__name__)

_TRIES: Final = 20
"""How often a batch that is outrun is tried at once: each time some other worker got on, so few are enough."""
_LONGEST_DOUBLING: Final = 10
"""The wait of a postponed parcel doubles with each attempt, so often at most."""


@dataclass(frozen=True)
class Single:
    """The outcome of a batch of one parcel."""

    counts: Counts
    failure: str | None = None
    """The error in one line, where the parcel was postponed."""


def while_outrun(attempt: Callable[[], Counts | None]) -> Counts | None:
    """Return what `attempt` returns, called again while other workers are faster; raises whatever else it raises."""
    # Each attempt is a transaction of its own: only a new snapshot shows what the faster worker has done.
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except DATABASE_ERRORS as error:
            if not is_outrun(error):
                raise
    return attempt()


def one_by_one(attempt: Callable[[], Single | None], settings: MonitorSettings) -> Counts:
    """Work off a batch's number of parcels one after the other, or until `attempt` finds none; return the counts.

    Raises:
        NothingWorks: the first `settings.give_up_after` parcels all failed.
    """
    total, failures = Counts(), 0
    for _ in range(settings.batch):
        single = attempt()
        if single is None:
            break
        total += single.counts
        failures += single.failure is not None
        if total.parcels == 0 and failures >= settings.give_up_after:
            raise NothingWorks(
                f"{failures} parcels of {failures} failed, the last: {single.failure}; they are postponed, others wait: "
                "mend or change the model or the server (parcelwatch status shows what waits)"
            )
    return total


def postpone(
    connection: Connection, claim: Claim, error: Exception, now: datetime, settings: MonitorSettings
) -> Single:
    """Postpone the one claimed parcel, longer after each attempt, and store its error for an operator to see."""
    failure = one_line(error)
    log.warning("parcel %s is postponed: %s", claim.parcel_keys[0], failure, exc_info=traceback_of(error))
    wait = timedelta(seconds=settings.retry_s) * 2 ** min(claim.attempts, _LONGEST_DOUBLING)
    # In the transaction that holds the claim: let go first, another worker would take the parcel and fail on it too.
    work.postpone(connection, claim, now + wait, failure)
    return Single(Counts(postponed=len(claim.parcel_keys)), failure)


def one_line(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"


def traceback_of(error: Exception) -> Exception | None:
    """Return the error where its traceback is to be logged: at level DEBUG only."""
    return error if log.isEnabledFor(logging.DEBUG) else None
