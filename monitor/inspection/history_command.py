"""`parcelwatch history`: all that is known of a parcel, or was known at a time."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from db import history as store
from db import registry
from db.connect import Connection, engine
from db.history import HistoryRow
from db.parcels import load_parcels
from db.seasons import Season, season_by_name
from db.series import available_series
from db.status import Group
from devstack.addresses import resolve_dsn
from monitor.alerts import evidence
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson, CollectionOption, TimeOption
from terminal.output import console, plain, printable
from terminal.times import moment, shown

AvailableOption = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help="observations whose products could be had by then, whenever they were stored",
    ),
]
LONGEST_NAME = 120
"""Bytes of a figure's file name that come from the parcel; file systems take 255 in all."""


@dataclass(frozen=True)
class Asked:
    """The time of which a history is asked, by one of two clocks; none of them: now."""

    known: datetime | None = None
    available: datetime | None = None

    @property
    def title(self) -> str:
        """Return how a title ends that says so."""
        if self.known:
            return f", as known at {shown(self.known)}"
        return f", as available at {shown(self.available)}" if self.available else ""

    @property
    def by_then(self) -> str:
        """Return how a sentence ends that says so."""
        return " by then" if self.known or self.available else ""


# More than six: the options of the command line.
def history(
    parcel: Annotated[str, typer.Argument(help="the agency's own id of the parcel", callback=arguments.storable)],
    collection: CollectionOption = None,
    season: Annotated[str | None, typer.Option(help="else the newest one", callback=arguments.storable)] = None,
    as_known_at: TimeOption = None,
    as_available_at: AvailableOption = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write, else reports/PARCEL.png")] = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a parcel, or was known at a time: table and figure."""
    if as_known_at and as_available_at:
        raise typer.BadParameter("give --as-known-at or --as-available-at, not both")
    at = Asked(as_known_at, as_available_at)
    with engine(resolve_dsn()).connect() as connection:
        key, its_collection, its_season = arguments.the_parcel(connection, parcel, collection, season)
        its = season_by_name(connection, its_season)
        rows = _rows(connection, key, its_collection, its, at)
        own = store.parcel_row(connection, key)
        unobserved = _why_unobserved(connection, key, own, rows, at)
        groups = arguments.groups(connection, its_season, its_collection)
    if as_json:
        for row in [own, *rows] if at.known is None or own.recorded_at <= at.known else rows:
            typer.echo(json.dumps(row.__dict__, default=str))
        if unobserved:
            typer.echo(printable(unobserved), err=True)
        return
    _print_history(rows)
    if unobserved:
        console.print(plain(unobserved), soft_wrap=True)
        return
    if at.available:
        console.print("posteriors are computed now, with the active model; there are no curves and alerts of that time")
    from monitor.inspection import figure  # loads matplotlib, which only a figure needs

    path = out or Path("reports") / f"{file_name(parcel)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    setting = figure.Setting((its.starts_on, its.ends_on), _declared(rows, at), _why_empty(groups[0], at))
    figure.save(rows, f"{its_collection} {parcel}, season {its_season}{at.title}", path, setting)
    console.print(f"picture: {plain(path)}", soft_wrap=True)


def file_name(source_id: str) -> str:
    """Return a name for files of a parcel: the id itself where that is one, else what is left of it and a digest."""
    name = re.sub(r"[^\w.-]+", "_", source_id).strip(".").encode()[:LONGEST_NAME].decode(errors="ignore")
    if name and name == source_id:
        return name
    return f"{name}-{hashlib.sha256(source_id.encode()).hexdigest()[:8]}"


def _rows(connection: Connection, key: int, collection: str, season: Season, at: Asked) -> list[HistoryRow]:
    """Return the history as asked; by what was available, with the posteriors that the active classifier gives of that."""
    if at.available is None:
        return store.parcel_history(connection, key, None, None, at.known)
    rows = store.parcel_history_available(connection, key, at.available)
    active = registry.active(connection, season.season_key, collection, "classifier")
    if active is not None:
        (parcel,) = load_parcels(connection, season, collection, keys=[key])
        from monitor.inspection.posterior_course import posterior_course  # loads torch, which only a model needs

        s2, s1 = available_series(connection, np.array([key], np.int64), at.available)
        rows += posterior_course(connection, parcel, active.model_key, season.starts_on, s2, s1)
    return sorted(rows, key=lambda row: row.at)


def _why_unobserved(connection: Connection, key: int, own: HistoryRow, rows: Sequence[HistoryRow], at: Asked) -> str:
    """Return why a history has neither observations nor anything derived from them; empty where it has."""
    if any(row.kind in ("s1", "s2", "ndvi", "posterior") for row in rows):
        return ""
    first = store.first_record(connection, key)
    if first is None:
        reason = own.detail["not_monitorable_reason"]
        why = f": it cannot be monitored ({reason})" if reason else ""
        return f"no observation of this parcel is stored{why}; no picture"
    span = f"observed {first.observed_from:%Y-%m-%d} to {first.observed_to:%Y-%m-%d}"
    if at.available:
        came = shown(first.available_from)
        return f"no product that shows this parcel could be had by {shown(at.available)}: the first came {came}; no picture"
    if at.known is None or first.recorded_at <= at.known:
        return f"every observation of this parcel was withdrawn{at.by_then} ({span}): no picture"
    offer = f"; for an archive loaded afterwards ask --as-available-at {at.known:%Y-%m-%dT%H:%M}"
    return (
        f"no observation of this parcel was recorded by {shown(at.known)}: the first was recorded {shown(first.recorded_at)} ({span})"
        + (offer if first.available_from <= at.known else "")
        + "; no picture"
    )


def _why_empty(group: Group, at: Asked) -> dict[str, str]:
    """Return why each frame of the figure is empty where it is."""
    where = f"{group.collection} in {group.season}"
    return {
        "posterior": f"no posterior was recorded{at.by_then}"
        if group.has_classifier
        else f"no classifier is active for {where}",
        "ndvi": f"no clear view and no daily NDVI{at.by_then}",
        "backscatter": f"no radar observation{at.by_then}",
    }


def _declared(rows: Sequence[HistoryRow], at: Asked) -> str:
    crops = [f"{row.crop} ({row.detail['crop_code']})" for row in rows if row.kind == "declaration"]
    return f"declared: {', then '.join(crops)}" if crops else f"nothing was declared{at.by_then}"


def _print_history(rows: Sequence[HistoryRow]) -> None:
    """Print observations, changes of the most likely crop and alerts; the daily curve is for the figure."""
    table = Table(box=None)
    for name in ("day", "what", "known since", "NDVI", "VV dB", "VH dB"):
        table.add_column(name, no_wrap=True, justify="right" if name[0] in "NV" else "left")
    table.add_column("note", overflow="fold")
    crop = None
    for row in rows:
        if row.kind == "ndvi" or (row.kind == "posterior" and row.crop == crop):
            continue
        crop = row.crop if row.kind == "posterior" else crop
        numbers = (_number(row.ndvi, 2), _number(row.vv_db, 1), _number(row.vh_db, 1))
        table.add_row(f"{row.at:%Y-%m-%d}", row.kind, f"{row.recorded_at:%Y-%m-%d}", *numbers, _note(row))
    if table.row_count:
        console.print(table)
    days = [row.at for row in rows if row.kind == "ndvi"]
    if days:
        console.print(f"daily NDVI on {len(days)} days, the last {max(days):%Y-%m-%d}")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _note(row: HistoryRow) -> str:
    """Return what else there is to say of a row, as markup."""
    detail: Any = row.detail
    if row.kind == "alert":
        said = evidence.why(detail["rule"], detail)
        if decision := detail.get("decision"):
            said = f"by {decision['by']}" + (f", {decision['reason']}" if decision.get("reason") else "")
        return f"[{detail['colour']}]{plain(detail['rule'])} {detail['event']}[/]: {plain(said)}"
    if row.kind == "posterior":
        return f"{plain(row.crop)} {row.probability:.2f}"
    if row.kind == "declaration":
        return f"{plain(row.crop)} ({plain(detail['crop_code'])})"
    revision = f", revision {detail['revision']}" if detail.get("revision") else ""
    return f"orbit {row.relative_orbit}{revision}"
