"""`parcelwatch parcels`: import of declared parcels, and what is stored of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from db.connect import Connection, engine
from db.parcels import ParcelCount, count_parcels
from db.seasons import Season, UnknownSeason, ensure_season, season_by_name, widen_season
from devstack.addresses import resolve_dsn
from ingest.errors import IngestError
from ingest.parcels.columns import load_agency
from ingest.parcels.declared import ImportOptions
from ingest.parcels.importer import ImportReport, import_parcels
from ingest.parcels.overlaps import MAX_OVERLAP
from ingest.parcels.texts import MAX_CHARACTERS, storable
from terminal.output import console, error_console, printable, table

app = typer.Typer(no_args_is_help=True, help="Declared parcels: import a season's file, see what is stored.")

REPORTED_MISSING = 5
"""Source ids that the table names; the rest is counted, and listed by --json."""

FIRST_DAY: Final = "First day, such as 2024-09-01, of a season that is not stored yet."
LAST_DAY: Final = "Last day of a season that is not stored yet."
DECLARED_AT: Final = (
    "When the farmers declared: a day or an ISO 8601 time, UTC where no zone is given. "
    "Default: the file's date where it lies in the season, else the season's first day."
)


@app.command("import")
def import_(  # the options of the command
    file: Annotated[Path, typer.Argument(help="GeoPackage, GeoJSON, shapefile (each may be zipped) or GeoParquet.")],
    collection: Annotated[str, typer.Option(help="Name of the declaration data set, such as nl-brp.")],
    season: Annotated[str, typer.Option(help="Name of the season; a year stands for the calendar year.")],
    starts_on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help=FIRST_DAY)] = None,
    ends_on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help=LAST_DAY)] = None,
    agency: Annotated[str | None, typer.Option(help="Shipped agency or a TOML file; default: recognised.")] = None,
    id_column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the parcel's id, or fid, the layer's own key; several are joined."),
    ] = None,
    crop_code_column: Annotated[str | None, typer.Option(help="Column of the declared crop's code.")] = None,
    crop_name_column: Annotated[
        str | None, typer.Option(help="Column of the crop's name; one of both will do.")
    ] = None,
    hcat_column: Annotated[str | None, typer.Option(help="Column of the EuroCrops HCAT code.")] = None,
    region_column: Annotated[str | None, typer.Option(help="Column of the region that crops are compared in.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of parcels whose file names none.")] = None,
    declared_at: Annotated[str | None, typer.Option(help=DECLARED_AT)] = None,
    earlier_season: Annotated[str | None, typer.Option(help="Season that lineage leads to; default: the last.")] = None,
    crs: Annotated[str | None, typer.Option(help="Coordinate system of a file that does not say.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of a file that has several.")] = None,
    max_overlap: Annotated[float, typer.Option(min=0, max=1, help="Share that others may cover.")] = MAX_OVERLAP,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Import the parcels of a season; the same file again changes nothing."""
    _refuse_unstorable(collection=collection, season=season, region=region or "-")
    given = {
        "id": tuple(id_column) if id_column else None,
        "crop_code": crop_code_column,
        "crop_name": crop_name_column,
        "hcat_code": hcat_column,
        "region": region_column,
    }
    options = ImportOptions(
        columns=load_agency(agency) if agency else None,
        overrides={name: column for name, column in given.items() if column},
        region=region,
        crs=crs,
        layer=layer,
        max_overlap=max_overlap,
    )
    with engine(resolve_dsn()).begin() as connection, _progress(not as_json) as on_read:
        stored_season = _season(connection, season, starts_on, ends_on)
        report = import_parcels(
            connection,
            file,
            collection,
            stored_season,
            options,
            recorded_at=datetime.now(UTC),
            declared_at=_moment(declared_at) if declared_at else _dated(file, stored_season),
            earlier_season=season_by_name(connection, earlier_season) if earlier_season else None,
            on_read=on_read,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        console.print(_report_table(report))
    for remark in report.remarks:
        error_console.print(Text(printable(f"note: {remark}")))


@app.command("compare")
def compare_(
    fields: Annotated[Path, typer.Argument(help="Fields drawn from scenes of the season, as `delineate` wrote them.")],
    collection: Annotated[str, typer.Option(help="Collection of the declared parcels.")],
    season: Annotated[str, typer.Option(help="Name of the season.")],
    tolerance: Annotated[
        float | None, typer.Option(min=1, help="Metres that an outline may be off; default: two pixels, 20 m.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Tell the monitor which parcels are farmed apart, or have an edge elsewhere than declared, by drawn fields."""
    from ingest.delineation.compare import compare_fields
    from models.segmentation.boundaries import Bounds

    bounds = Bounds() if tolerance is None else Bounds(tolerance)
    with engine(resolve_dsn()).begin() as connection:
        stored = season_by_name(connection, season)
        report = compare_fields(connection, fields, collection, stored, bounds, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    rows = [(kind.replace("_", " "), f"{number:,}") for kind, number in sorted(report.parcels.items())]
    title = f"{report.fields:,} fields beside the parcels of {collection}, season {season}: {report.changed:,} changed"
    console.print(table(("parcels", "number"), rows, title=title, right=("number",)))


@app.command("list")
def list_(
    season: Annotated[str, typer.Option(help="Name of the season.")],
    collection: Annotated[str | None, typer.Option(help="Only this collection.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Counts as JSON.")] = False,
) -> None:
    """Count a season's parcels by collection, region, declared crop and monitorability."""
    with engine(resolve_dsn()).begin() as connection:
        counts = count_parcels(connection, season_by_name(connection, season), collection)
    tallies = _tallies(counts)
    if as_json:
        typer.echo(json.dumps(tallies, ensure_ascii=False))
        return
    for title, tally in tallies.items():
        rows = [
            (name, f"{parcels:,}", f"{area_ha:,.1f}")
            for name, (parcels, area_ha) in sorted(tally.items(), key=lambda entry: -entry[1][0])
        ]
        headers = (title, "parcels", "area (ha)")
        console.print(table(headers, rows, title=f"Season {season}", right=headers[1:]))


@app.command("season")
def season_(
    name: Annotated[str, typer.Argument(help="Name of a stored season.")],
    starts_on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="An earlier first day.")] = None,
    ends_on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A later last day.")] = None,
) -> None:
    """Show a season's dates, or widens them; a season's dates are those of all its collections."""
    with engine(resolve_dsn()).begin() as connection:
        season = widen_season(
            connection, name, starts_on.date() if starts_on else None, ends_on.date() if ends_on else None
        )
    console.print(Text(printable(f"season {season.name}: {season.starts_on} to {season.ends_on}")))


@contextmanager
def _progress(is_shown: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("reading parcels"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=error_console, transient=True, disable=not (is_shown and error_console.is_terminal)
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _season(connection: Connection, name: str, starts_on: datetime | None, ends_on: datetime | None) -> Season:
    """Return the season as stored, as dated by options, or as the calendar year that it is named after."""
    if (starts_on is None) != (ends_on is None):
        raise IngestError("--starts-on and --ends-on belong together")
    if starts_on is not None and ends_on is not None:
        if ends_on <= starts_on:
            raise IngestError("--ends-on must be after --starts-on")
        return ensure_season(connection, name, starts_on.date(), ends_on.date())
    try:
        return season_by_name(connection, name)
    except UnknownSeason:
        if not (len(name) == 4 and name.isdecimal()):
            raise IngestError(f"season {name!r} is new: say --starts-on and --ends-on") from None
        return ensure_season(connection, name, date(int(name), 1, 1), date(int(name) + 1, 1, 1) - timedelta(days=1))


def _moment(text: str) -> datetime:
    """Return a day or time in ISO 8601; without a zone it is UTC, a day begins at midnight."""
    try:
        moment = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        raise IngestError(
            f"--declared-at {text!r}: neither a day nor a time; as in 2024-05-15 or 2024-05-15T12:30"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _dated(file: Path, season: Season) -> datetime:
    """Return the time of a file's last change if it lies in the season, else the season's first day.

    Declarations are made for a season and within it: a file copied years later does not say when.
    """
    first = datetime.combine(season.starts_on, time.min, UTC)
    try:
        changed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return first
    return changed if season.starts_on <= changed.date() <= season.ends_on else first


def _refuse_unstorable(**names: str) -> None:
    for what, name in names.items():
        if storable(name) != (name, True):
            raise IngestError(f"--{what}: give a name of 1 to {MAX_CHARACTERS} characters without control characters")


def _report_table(report: ImportReport) -> Table:
    title = Text(printable(f"{report.file} → {report.collection}, season {report.season}"))
    made = Table(title=title, show_header=False)
    made.add_column(overflow="fold")
    made.add_column(justify="right")

    def add(what: str, number: int, note: str = "") -> None:
        made.add_row(Text.assemble(printable(what), (printable(note), "dim")), f"{number:,}")

    found, changed = report.found, report.changed
    add("parcels in the file", found.parcels, f" ({report.recognised_as} columns)" if report.recognised_as else "")
    add("  monitorable", found.monitorable)
    for reason, number in found.not_monitorable.items():
        add(f"  not monitorable: {reason}", number)
    add("repaired outlines", found.repaired)
    add("ids shared with an earlier parcel", found.shared_ids)
    add("without a declared crop", found.undeclared)
    add("too small for Sentinel-1", found.too_small_for_s1)
    made.add_section()
    add("new", changed.new)
    add("unchanged", changed.unchanged)
    add("outline amended", changed.amended_geometry)
    add("region or monitorability amended", changed.reassessed)
    add("lying elsewhere than stored, refused", len(changed.moved_away))
    add("declarations stored", changed.declarations, f" (as of {report.declared_at:%Y-%m-%d %H:%M} UTC)")
    add("  of them amending an earlier one", changed.amended_declarations)
    first = ", ".join(changed.missing[:REPORTED_MISSING])
    add("stored before, missing from this file", len(changed.missing), f" ({first}, ...)" if first else "")
    if report.earlier_season:
        add(f"lineage to season {report.earlier_season}", report.lineage)
    return made


def _tallies(counts: list[ParcelCount]) -> dict[str, dict[str, tuple[int, float]]]:
    """Return parcels and hectares by name, for each way of counting."""
    tallies: dict[str, dict[str, tuple[int, float]]] = {}
    for count in counts:
        for title, name in (
            ("collection", count.collection),
            ("region", count.region),
            ("declared crop", count.crop_name or "(none)"),
            ("monitorability", count.not_monitorable_reason or "monitorable"),
        ):
            parcels, area_ha = tallies.setdefault(title, {}).get(name, (0, 0.0))
            tallies[title][name] = (parcels + count.parcels, area_ha + count.area_ha)
    return tallies
