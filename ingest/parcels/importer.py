"""Import of a season's declared parcels: from an agency's file to rows.

    file ── read_features ── measure (outlines, by batch) ── validate (ids, duplicates, overlaps) ── upsert ── lineage

No parcel is dropped: one that cannot be watched is stored with the reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyproj
import shapely
from pyproj.exceptions import CRSError, ProjError

from db.connect import Connection
from db.parcel_import import ParcelRow, Upserted, link_lineage, upsert_parcels
from db.seasons import Season, previous_season
from ingest.parcels.arrays import masked
from ingest.parcels.columns import Agency, ParcelColumns, recognise
from ingest.parcels.files import FeatureBatch, ParcelFile, ParcelFileError, open_parcel_file, read_features
from ingest.parcels.geometry import WGS84, Outlines, measure
from ingest.parcels.overlaps import MAX_OVERLAP, overlap_share, repeated
from ingest.parcels.texts import MAX_CHARACTERS, id_part, storable


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read a parcel file; None: as the file says or as recognised from its columns."""

    columns: ParcelColumns | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Fields of ParcelColumns given one by one; they go before `columns`."""
    region: str | None = None
    """Region of parcels whose file names none; None: the collection's name."""
    crs: str | None = None
    """For a file that does not say; it never overrides what the file says."""
    layer: str | None = None
    max_overlap: float = MAX_OVERLAP
    is_measured_elsewhere: bool = False
    """Another system measures these very parcels, so none is too small or too narrow for it (recorded seasons)."""


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


@dataclass(frozen=True, slots=True)
class _Declared:
    """Everything a file says, one entry per parcel."""

    source_id: list[str | None]
    region: list[str]
    crop_code: list[str | None]
    crop_name: list[str | None]
    hcat_code: list[str | None]
    outlines: Outlines
    unusable: list[int]
    """Rows, counted from 1, with a text that cannot be stored."""


UNSTORABLE: Final = f"control characters, no text, a float that is no exact number, or over {MAX_CHARACTERS} characters"
MAX_TRIED: Final = 50
"""Columns that are searched for an id; further ones cannot be named in a line anyway."""
_MEASURE: Final = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?$", re.IGNORECASE)
MAX_SHARED_IDS: Final = 0.3
"""Share of parcels without an id of their own from which a file is refused (the agencies' own have up to 7 %)."""
NAMED_IDS: Final = 5
"""Source ids that a remark names."""


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
    columns, recognised_as = _columns(file, options)
    declared = _read(file, columns, _crs(file, options), options.region or collection, on_read)
    _refuse_shared_ids(file, columns, declared)
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
        remarks=_remarks(file, declared, found, upserted),
    )


def _remarks(file: ParcelFile, declared: _Declared, found: Findings, changed: Upserted) -> tuple[str, ...]:
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
    if found.undeclared == found.parcels:
        remarks.append(
            f"no parcel has a declared crop; name --crop-code-column or --crop-name-column. It has: {file.listed()}"
        )
    return tuple(remarks)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED_IDS]) + (", ..." if len(names) > NAMED_IDS else "")


def _refuse_shared_ids(file: ParcelFile, columns: ParcelColumns, declared: _Declared) -> None:
    """Raise ParcelFileError where too few parcels have an id of their own; it names the columns that are unique."""
    given = [name for name in declared.source_id if name is not None]
    n_parcels, n_without = len(declared.source_id), len(declared.source_id) - len(set(given))
    if n_without <= max(1, MAX_SHARED_IDS * n_parcels):
        return
    if unique := _unique_columns(file):
        remedy = f"one of its own has --id-column {' or '.join(unique[:NAMED_IDS])}"
    else:
        remedy = "no column of the file has, so join several: --id-column A --id-column B"
    inexact = f" ({len(declared.unusable):,} are {UNSTORABLE})" if declared.unusable else ""
    raise ParcelFileError(
        f"{file.path}: {n_without:,} of {n_parcels:,} parcels have no id of their own by {'-'.join(columns.id)}{inexact}, so they "
        f"could not be watched; {remedy}"
    )


def _unique_columns(file: ParcelFile) -> list[str]:
    """Return the columns whose values are all there and all different, measures left out; the layer's own key last."""
    columns = [*file.columns[:MAX_TRIED], *([file.key] if file.key else [])]
    values: dict[str, set[str]] = {column: set() for column in columns}
    for batch in read_features(file, columns):
        for column in list(values):
            parts = [id_part(text) for text in batch.texts[column]]
            seen, new = (
                values[column],
                {part for part, is_usable in parts if part and is_usable and not _MEASURE.match(part)},
            )
            if len(new) < len(parts) or seen & new:
                del values[column]
            else:
                seen |= new
    return list(values)


def validate(ids: list[str | None], outlines: Outlines, max_overlap: float) -> tuple[list[str], list[str | None]]:
    """Return unique source ids and final reasons, from what only the whole file can show.

    The first parcel of an id keeps it; a further one is kept as `ID#2`, `ID#3`, ... and not monitored, because nobody
    could say which field an observation or a dead letter under that id means.
    """
    reason: list[str | None] = list(outlines.reason)
    times: Counter[str] = Counter()
    source_id: list[str] = []
    taken = {given for given in ids if given is not None}
    for row, given in enumerate(ids):
        times[given or ""] += 1
        nth = times[given or ""]
        name = given if given is not None and nth == 1 else f"{given or ''}#{nth}"
        while name in taken and not (given is not None and nth == 1):  # the file may use such an id itself
            name += "'"
        taken.add(name)
        source_id.append(name)
        if reason[row] is None and (given is None or nth > 1):
            reason[row] = "no_id" if given is None else "duplicate_id"
    is_repeated = repeated(outlines.geometry)
    share = overlap_share(masked(outlines.geometry, is_repeated))
    for row in range(len(ids)):
        if reason[row] in (None, "duplicate_id", "too_small", "too_narrow") and is_repeated[row]:
            reason[row] = "duplicate_geometry"
        elif reason[row] is None and share[row] > max_overlap:
            reason[row] = "overlaps_other"
    return source_id, reason


def _columns(file: ParcelFile, options: ImportOptions) -> tuple[ParcelColumns, str | None]:
    """Return the columns to read, and the agency that they were recognised by."""
    own_key = () if file.key is None else (file.key, "fid")
    name, base, there = None, options.columns, {*file.columns, *own_key}
    if isinstance(base, Agency):
        base = base.fitting(there)
    if base is None and "id" not in options.overrides:
        name, base = recognise(there) or (None, None)
        if base is None:
            raise ParcelFileError(
                f"{file.path}: of no known agency; say --agency or --id-column. It has: {file.listed()}; the declared crop "
                "is read from --crop-code-column or --crop-name-column"
            )
    known = {} if base is None else base.model_dump(include=set(ParcelColumns.model_fields))
    return ParcelColumns.model_validate({**known, **options.overrides}), name


def _crs(file: ParcelFile, options: ImportOptions) -> pyproj.CRS:
    """Return the system of a file's coordinates; the option counts where the file's own is unsaid or cannot be used."""
    if file.crs is not None:
        return file.crs
    if options.crs is None:
        why = file.crs_fault or "does not say its coordinate system"
        raise ParcelFileError(f"{file.path}: {why}; give it as in --crs EPSG:25832")
    try:
        crs = pyproj.CRS.from_user_input(options.crs)
        pyproj.Transformer.from_crs(crs, WGS84, always_xy=True, allow_ballpark=False)
    except CRSError as error:
        raise ParcelFileError(f"--crs {options.crs}: not a coordinate system; give one such as EPSG:25832") from error
    except ProjError as error:
        raise ParcelFileError(f"--crs {options.crs}: its datum is unknown; give one such as EPSG:25832") from error
    return crs


def _read(
    file: ParcelFile, columns: ParcelColumns, crs: pyproj.CRS, region: str, on_read: Callable[[int, int], None]
) -> _Declared:
    batches: list[tuple[FeatureBatch, Outlines]] = []
    done = 0
    for batch in read_features(file, columns.named()):
        outlines = measure(batch.wkb, crs)
        batches.append((FeatureBatch(texts=batch.texts, wkb=[]), outlines))  # the raw geometry may go
        done += len(outlines.geometry)
        on_read(done, file.n_parcels)

    unusable: set[int] = set()

    def column(name: str | None, clean: Callable[[str | None], tuple[str | None, bool]] = storable) -> list[str | None]:
        given = [text for batch, o in batches for text in (batch.texts[name] if name else [None] * len(o.geometry))]
        cleaned = [clean(text) for text in given]
        unusable.update(row for row, (_, is_usable) in enumerate(cleaned) if not is_usable)
        return [text if is_usable else None for text, is_usable in cleaned]

    parts = [column(name, id_part) for name in columns.id]
    ids = ["-".join(filter(None, given)) if all(given) else None for given in zip(*parts, strict=True)]
    unusable |= {row for row, given in enumerate(ids) if given and len(given) > MAX_CHARACTERS}
    code, name = column(columns.crop_code), column(columns.crop_name)
    regions, hcat_code = column(columns.region), column(columns.hcat_code)
    outlines = Outlines(*(np.concatenate([getattr(o, f.name) for _, o in batches]) for f in fields(Outlines)))
    outlines.reason[sorted(unusable)] = "unusable_text"
    return _Declared(
        source_id=[None if given and len(given) > MAX_CHARACTERS else given for given in ids],
        region=[text or region for text in regions],
        crop_code=[c or n for c, n in zip(code, name, strict=True)],  # one of the two stands for both
        crop_name=[n or c for c, n in zip(code, name, strict=True)],
        hcat_code=hcat_code,
        outlines=outlines,
        unusable=[row + 1 for row in sorted(unusable)],
    )


def _rows(declared: _Declared, source_id: list[str], reason: list[str | None]) -> Iterator[ParcelRow]:
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


def _findings(declared: _Declared, reason: list[str | None]) -> Findings:
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
