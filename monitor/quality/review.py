"""Who is to review which parcels of a sample, and what they are shown."""

import io
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from db import chips, history, quality
from db.connect import Connection
from db.quality import FormRow, StoredSampleRow, VerdictRow
from db.seasons import Season
from monitor.errors import NotFound
from monitor.quality.form import Sheet, observed
from monitor.quality.verdicts import newest_of_each, settled

MOST_PICTURES: Final = 6
"""Pictures of a parcel on its sheet; chosen because two composites of three days fit beside the curves."""


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


def sheets(
    connection: Connection, sample: StoredSampleRow, rows: Iterable[FormRow], season: Season, at: datetime | None
) -> Iterable[Sheet]:
    """Yield what the form shows of parcels, as known at a time (None: now).

    Pictures are shown only where all parcels of the sample are to have them, and only of the time since: those that yellow and red
    parcels have besides would say which these are.
    """
    from monitor.inspection import figure  # loads matplotlib, which only the page needs

    setting = figure.Setting((season.starts_on, season.ends_on), is_blind=True)
    since = quality.pictured_since(connection, sample.sample_key)
    for row in rows:
        png = io.BytesIO()
        known = observed(history.parcel_history(connection, row.parcel_key, None, None, at))
        figure.save(known, "", png, setting)
        yield Sheet(row, png.getvalue(), _pictures(connection, row.parcel_key, since, at) if since else ())


def _pictures(connection: Connection, parcel_key: int, since: datetime, at: datetime | None) -> list[tuple[str, bytes]]:
    """Return the newest pictures of a parcel with what they show and when, in order of time.

    Of each pass the newest revision alone: parcels with an alert may have earlier ones too.
    """
    stored = chips.chips_of(connection, parcel_key, first=since)
    known = [one for one in stored if one.image is not None and (at is None or one.recorded_at <= at)]
    shown = list({(one.observed_at, one.composite): one for one in known}.values())
    return [
        (f"{one.composite.replace('_', ' ')}, {one.observed_at:%Y-%m-%d}", one.image)
        for one in shown[-MOST_PICTURES:]
        if one.image
    ]
