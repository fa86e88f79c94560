"""Who is to review which parcels of a sample, and what they are shown."""

import io
from collections.abc import Iterable
from datetime import datetime

from db import history, quality
from db.connect import Connection
from db.quality import FormRow, StoredSampleRow, VerdictRow
from db.seasons import Season
from monitor.errors import NotFound
from monitor.quality.form import Sheet, observed
from monitor.quality.verdicts import newest_of_each, settled


def the_sample(connection: Connection, sample_key: int) -> StoredSampleRow:
    """Return a stored sample; raises NotFound."""
    stored = quality.samples(connection)
    for one in stored:
        if one.sample_key == sample_key:
            return one
    known = ", ".join(str(one.sample_key) for one in stored[-5:]) or "none"
    raise NotFound(f"sample {sample_key} is not stored; stored: {known}")


def left_to_review(connection: Connection, sample_key: int, by: str) -> list[FormRow]:
    """Return the parcels on which a person's verdict is wanted: those without enough of them, and those in dispute."""
    given: dict[int, list[VerdictRow]] = {}
    for one in quality.verdicts(connection, sample_key):
        given.setdefault(one.item, []).append(one)

    def is_wanted(row: FormRow) -> bool:
        so_far = newest_of_each(given.get(row.item, []))
        return by not in so_far and (len(so_far) < row.n_reviewers or settled(list(so_far.values())) == "disputed")

    return [row for row in quality.form_rows(connection, sample_key) if is_wanted(row)]


def sheets(connection: Connection, rows: Iterable[FormRow], season: Season, at: datetime | None) -> Iterable[Sheet]:
    """Yield what the form shows of parcels, as known at a time (None: now)."""
    from monitor.inspection import figure  # loads matplotlib, which only the page needs

    setting = figure.Setting((season.starts_on, season.ends_on), is_blind=True)
    for row in rows:
        png = io.BytesIO()
        known = observed(history.parcel_history(connection, row.parcel_key, None, None, at))
        figure.save(known, "", png, setting)
        yield Sheet(row, png.getvalue())
