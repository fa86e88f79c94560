"""Evidence bundles at the end of the demonstration: rasters for some alerted fields, their pictures, and all in one page each."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from db import chips, history
from db.connect import engine
from db.history import AlertFilter, KnownAlertRow
from ingest.imagery.settings import ImagerySettings
from ingest.scenes import chip_cutting
from ingest.scenes.adding import scenes_at
from ingest.scenes.http_retries import Clock, Http, Patience
from ingest.scenes.opening import Opener
from ingest.scenes.places import Places
from ingest.scenes.publish import enter
from monitor.inspection import bundle_files
from monitor.inspection.bundle import gather
from research.simulator import Season
from research.simulator.rasters import write_scenes

MOST: Final = 3
"""Alerts that get a bundle, of different rules where there are some."""


def write_bundles(dsn: str, season: Season, folder: Path) -> list[Path]:
    """Write pages of some alerts of a season into a folder; return them.

    Only the scenes that the pictures show are written as rasters; they enter the ledger under the ids that the messages named,
    and are not cut into observations again.
    """
    database, now = engine(dsn), datetime.combine(season.ends_on, datetime.min.time(), UTC) + timedelta(days=30)
    with database.begin() as connection:
        known = history.known_alerts(connection, AlertFilter(season=season.name, with_closed=True))
        chosen = _different(known)
        departures = [one for row in chosen if (one := chips.departure(connection, row.alert_key)) is not None]
        shown = {one.alert_key: chips.to_show(connection, one) for one in departures}
    scenes = folder.resolve() / "scenes"
    names = [row.source_id for row in chosen]
    items = write_scenes(season, names, scenes, {one.scene_id for found in shown.values() for one in found})
    enter(database, [found for item in items for found in scenes_at(str(item), None, _no_address, now)], now)
    opener = Opener({}, _http, lambda: now, lambda: Places.of((), (scenes,), ()))
    for one in departures:
        with database.begin() as connection:
            wanted = {one.parcel_key: chips.to_show(connection, one)}
        for _ in chip_cutting.cut_again(database, opener, wanted, "request", ImagerySettings(), now):
            pass
    written = []
    with database.begin() as connection:
        for row in chosen:
            made = gather(connection, row.alert_key, None)
            written += bundle_files.write(made, folder / f"alert-{row.alert_key}.html")
            bundle_files.write(made, folder / f"alert-{row.alert_key}.pdf")
    return written


def _different(known: Sequence[KnownAlertRow]) -> list[KnownAlertRow]:
    """Return the surest alert of each rule, red ones first, then further ones."""
    ordered = sorted(known, key=lambda row: (row.colour != "red", -row.confidence, row.alert_key))
    first = {row.rule: row for row in reversed(ordered)}
    chosen = sorted(first.values(), key=ordered.index)
    return [*chosen, *(row for row in ordered if row not in chosen)][:MOST]


def _http(source: str) -> Http:
    return Http(source, Patience(), Clock(lambda: datetime.now(UTC), lambda _: False, lambda low, _: low))


def _no_address(address: str) -> object:
    raise OSError(f"{address}: the demonstration reads files alone")
