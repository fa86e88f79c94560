"""Who is to review which parcels of a sample, what they are shown, and what their verdicts come to."""

import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from db import chips, history, quality
from db.chips import ChipRow
from db.connect import Connection
from db.quality import FormRow, StoredSampleRow, VerdictRow
from db.seasons import Season
from monitor.errors import NotFound
from monitor.quality import report
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
        shown = pictures(connection, row.parcel_key, since, at) if since else ()
        yield Sheet(row, png.getvalue(), [(caption(one), one.image) for one in shown if one.image])


def pictures(
    connection: Connection, parcel_key: int, since: datetime, at: datetime | None, *, with_images: bool = True
) -> list[ChipRow]:
    """Return the newest pictures of a parcel in order of time.

    Of each pass the newest revision alone: parcels with an alert may have earlier ones too.
    """
    stored = chips.chips_of(connection, parcel_key, first=since, with_images=with_images)
    known = [one for one in stored if one.size is not None and (at is None or one.recorded_at <= at)]
    return list({(one.observed_at, one.composite): one for one in known}.values())[-MOST_PICTURES:]


def caption(chip: ChipRow) -> str:
    """Return what a picture shows, and of which day."""
    return f"{chip.composite.replace('_', ' ')}, {chip.observed_at:%Y-%m-%d}"


def reported(
    connection: Connection,
    stored: Sequence[StoredSampleRow],
    groups: Iterable[tuple[str, str]],
    budgets: Sequence[int],
    at: datetime | None,
) -> dict[str, Any]:
    """Return the report of samples, and of decisions on the alerts of groups (season, collection), as known at a time (None: now)."""
    confidence = stored[-1].confidence if stored else 0.95
    return {
        "as_known_at": at,
        "samples": [
            report.of_sample(
                one,
                quality.strata(connection, one.sample_key),
                quality.drawn(connection, one.sample_key),
                quality.verdicts(connection, one.sample_key, at),
                budgets,
            )
            for one in stored
        ],
        "alerts": [
            {"season": season, "collection": collection} | cell
            for season, collection in sorted(groups)
            for cell in report.of_alerts(quality.alert_verdicts(connection, season, collection, at), confidence)
        ],
    }
