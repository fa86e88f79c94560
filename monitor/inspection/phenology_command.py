"""`parcelwatch phenology`: when a parcel's season began, peaked and ended, and what markers saw on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from db import markers, phenology
from db.connect import engine
from db.markers import MarkerRow
from db.phenology import MeasureRow
from devstack.addresses import resolve_dsn
from monitor.alerts.evidence import percent
from monitor.inspection import arguments
from monitor.inspection.arguments import AsJson, CollectionOption, SeasonOption, TimeOption
from monitor.inspection.listing import records
from terminal.output import console, plain
from terminal.times import shown

app = typer.Typer(no_args_is_help=True, help="A parcel's season, and what markers saw on it.")


@app.command()
def show(
    parcel: Annotated[str, typer.Argument(help="the agency's own id of the parcel", callback=arguments.storable)],
    collection: CollectionOption = None,
    season: SeasonOption = None,
    as_known_at: TimeOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the measures of a parcel's season, its field work and its vigour, as known now or at a time."""
    with engine(resolve_dsn()).connect() as connection:
        key, its_collection, its_season = arguments.the_parcel(connection, parcel, collection, season)
        measures = phenology.known(connection, key, as_known_at)
        marked = markers.known(connection, key, as_known_at)
    if as_json:
        for one in measures:
            typer.echo(json.dumps({"kind": "measure", **asdict(one)}, default=str))
        for row in marked:
            typer.echo(json.dumps({"kind": "marker", **asdict(row)}, default=str))
        return
    then = f", as known at {shown(as_known_at)}" if as_known_at else ""
    console.print(plain(f"{its_collection} {parcel}, season {its_season}{then}"))
    if measures:
        console.print(records(_measures(measures)))
    else:
        console.print(f"no season was measured{' by then' if then else ' yet'}: that needs a daily curve")
    if marked:
        console.print(records(_markers(marked)))
    else:
        console.print(f"no field work was looked for{' by then' if then else ' yet'}: that needs a clear view")


def _measures(rows: Sequence[MeasureRow]) -> Mapping[str, Sequence[str]]:
    return {
        "measure": [one.measure for one in rows],
        "method": [one.method for one in rows],
        "value": [str(one.day) if one.day else _number(one.value) for one in rows],
        "sd": [_number(one.sd) for one in rows],
        "unit": ["" if one.day else one.unit for one in rows],
        "known since": [f"{one.recorded_at:%Y-%m-%d}" for one in rows],
        "status": [plain(one.status) for one in rows],
    }


def _markers(rows: Sequence[MarkerRow]) -> Mapping[str, Sequence[str]]:
    return {
        "marker": [plain(one.marker) for one in rows],
        "status": [one.status for one in rows],
        "value": [_number(one.value) for one in rows],
        "day": ["" if one.day is None else str(one.day) for one in rows],
        "confidence": ["" if one.confidence is None else percent(one.confidence) for one in rows],
        "known since": [f"{one.recorded_at:%Y-%m-%d}" for one in rows],
        "note": [plain(_note(one.evidence)) for one in rows],
    }


def _note(evidence: Mapping[str, Any]) -> str:
    """Return on what a marker rests, in words."""
    if "reason" in evidence:
        return str(evidence["reason"])
    return "; ".join(
        f"between {one['begin']} and {one['end']}, by {' and '.join(one['seen_by'])}"
        for one in evidence.get("events", [])
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
