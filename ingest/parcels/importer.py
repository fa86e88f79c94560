"""Import of a season's declared parcels: from an agency's file to rows.

    file ── read_features ── measure (outlines, by batch) ── validate (ids, duplicates, overlaps) ── upsert ── lineage

No parcel is dropped: one that cannot be watched is stored with the reason.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import shapely

from db.connect import Connection
from db.parcel_import import ParcelRow, Upserted, link_lineage, upsert_parcels
from db.seasons import Season, previous_season
from ingest.parcels.declared import Declared, ImportOptions, parcel_columns, parcel_crs, read_declared
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.files import ParcelFile, open_parcel_file
from ingest.parcels.texts import UNSTORABLE
from ingest.parcels.validation import NAMED_IDS, refuse_shared_ids, validate

DRAWN: Final = "delineation"
"""What files of `parcelwatch delineate` are recognised as."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a file holds; every parcel is in `monitorable` or under one reason."""

    parcels: int
    monitorable: int
    not_monitorable: dict[str, int]
    repaired: int
    shared_ids: int
    """Parcels under an id that another parcel of the file had first."""
    undeclared: int
    """Parcels without a declared crop."""
    too_small_for_s1: int
    """Monitorable with Sentinel-2 only: too little is left inside Sentinel-1's wider inner buffer."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import found and changed."""

    file: str
    collection: str
    season: str
    recognised_as: str | None
    found: Findings
    changed: Upserted
    lineage: int
    """Links to parcels of `earlier_season`."""
    earlier_season: str | None
    declared_at: datetime
    remarks: tuple[str, ...]
    """What a person should know before going on, a line each."""

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {**asdict(self), "declared_at": self.declared_at.isoformat()}


def import_parcels(  # what to import, as what, and when it is known; the last three have defaults
    connection: Connection,
    path: Path,
    collection: str,
    season: Season,
    options: ImportOptions,
    recorded_at: datetime,
    declared_at: datetime | None = None,
    earlier_season: Season | None = None,
    on_read: Callable[[int, int], None] = lambda _done, _total: None,
) -> ImportReport:
    """Store the parcels of a file as the whole `collection` of `season`; the same file again changes nothing.

    Args:
        declared_at: when the farmers declared; None: `recorded_at`.
        earlier_season: where lineage leads; None: the collection's newest earlier season.
        on_read: called with (parcels read, parcels in the file) after each batch.

    Raises:
        ParcelFileError: the file cannot be imported as asked; nothing was written.
    """
    file = open_parcel_file(path, options.layer)
    columns, recognised_as = parcel_columns(file, options)
    declared = read_declared(file, columns, parcel_crs(file, options), options.region or collection, on_read)
    refuse_shared_ids(file, columns, declared)
    try:
        source_id, reason = validate(declared.source_id, declared.outlines, options.max_overlap)
    except ValueError as error:
        raise ParcelFileError(
            f"{path}: {error}; choose the layer or the year in which fields lie side by side"
        ) from error
    if options.is_measured_elsewhere:
        reason = [None if one in ("too_small", "too_narrow") else one for one in reason]
    upserted = upsert_parcels(
        connection, collection, season, _rows(declared, source_id, reason), declared_at or recorded_at, recorded_at
    )
    earlier = earlier_season or previous_season(connection, collection, season)
    found = _findings(declared, reason)
    return ImportReport(
        file=path.name,
        collection=collection,
        season=season.name,
        recognised_as=recognised_as,
        found=found,
        changed=upserted,
        lineage=link_lineage(connection, collection, season, earlier) if earlier else 0,
        earlier_season=earlier.name if earlier else None,
        declared_at=declared_at or recorded_at,
        remarks=_remarks(file, recognised_as, declared, found, upserted),
    )


def _remarks(
    file: ParcelFile, recognised_as: str | None, declared: Declared, found: Findings, changed: Upserted
) -> tuple[str, ...]:
    """Return what a person should know of an import that went through."""
    remarks = []
    if declared.unusable:
        remarks.append(
            f"{len(declared.unusable):,} parcels have an id, region or crop that cannot be stored ({UNSTORABLE}) and are not "
            f"monitored: row {_some([str(row) for row in declared.unusable])} of the file"
        )
    if changed.moved_away:
        remarks.append(
            f"{len(changed.moved_away):,} parcels lie elsewhere than the parcel stored under their id, so they are other "
            f"fields, and nothing of them was stored: {_some(changed.moved_away)}; choose ids that stay with a field "
            "(--id-column), or import the file as another collection"
        )
    if found.undeclared == found.parcels and recognised_as == DRAWN:
        remarks.append(
            "no field has a crop, so crop_mismatch, no_emergence and early_loss have nothing to compare; a policy asks the same of all "
            "fields: `parcelwatch policy example --undeclared`"
        )
    elif found.undeclared == found.parcels:
        remarks.append(
            f"no parcel has a declared crop; name --crop-code-column or --crop-name-column. It has: {file.listed()}"
        )
    return tuple(remarks)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_IDS]) + (", ..." if len(names) > NAMED_IDS else "")


def _rows(declared: Declared, source_id: list[str], reason: list[str | None]) -> Iterator[ParcelRow]:
    outlines = declared.outlines
    wkb = shapely.to_wkb(outlines.geometry)
    for row in range(len(source_id)):
        has_outline = wkb[row] is not None
        yield ParcelRow(
            source_id=source_id[row],
            region=declared.region[row],
            wkb=wkb[row],
            area_ha=float(outlines.area_ha[row]) if has_outline else None,
            perimeter_m=float(outlines.perimeter_m[row]) if has_outline else None,
            bbox_fill=float(outlines.bbox_fill[row]) if has_outline else None,
            not_monitorable_reason=reason[row],
            crop_code=declared.crop_code[row],
            crop_name=declared.crop_name[row],
            hcat_code=declared.hcat_code[row],
        )


def _findings(declared: Declared, reason: list[str | None]) -> Findings:
    is_monitorable = np.array([value is None for value in reason])
    given = [value for value in declared.source_id if value is not None]
    return Findings(
        parcels=len(reason),
        monitorable=int(is_monitorable.sum()),
        not_monitorable=dict(Counter(value for value in reason if value is not None).most_common()),
        repaired=int(declared.outlines.is_repaired.sum()),
        shared_ids=len(given) - len(set(given)),
        undeclared=sum(code is None for code in declared.crop_code),
        too_small_for_s1=int(np.sum(is_monitorable & ~declared.outlines.is_seen_by_s1)),
    )
