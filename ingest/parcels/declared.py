"""Everything a parcel file says, read by the columns of its agency."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import pyproj
from pyproj.exceptions import CRSError, ProjError

from ingest.parcels.columns import Agency, ParcelColumns, recognise
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.files import FeatureBatch, ParcelFile, read_features
from ingest.parcels.geometry import WGS84, Outlines, measure
from ingest.parcels.overlaps import MAX_OVERLAP
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
class Declared:
    """Everything a file says, one entry per parcel."""

    source_id: list[str | None]
    region: list[str]
    crop_code: list[str | None]
    crop_name: list[str | None]
    hcat_code: list[str | None]
    outlines: Outlines
    unusable: list[int]
    """Rows, counted from 1, with a text that cannot be stored."""


def parcel_columns(file: ParcelFile, options: ImportOptions) -> tuple[ParcelColumns, str | None]:
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


def parcel_crs(file: ParcelFile, options: ImportOptions) -> pyproj.CRS:
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


def read_declared(
    file: ParcelFile, columns: ParcelColumns, crs: pyproj.CRS, region: str, on_read: Callable[[int, int], None]
) -> Declared:
    """Return what a file says, outlines measured batch by batch; `region` for parcels whose file names none."""
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
    return Declared(
        source_id=[None if given and len(given) > MAX_CHARACTERS else given for given in ids],
        region=[text or region for text in regions],
        crop_code=[c or n for c, n in zip(code, name, strict=True)],  # one of the two stands for both
        crop_name=[n or c for c, n in zip(code, name, strict=True)],
        hcat_code=hcat_code,
        outlines=outlines,
        unusable=[row + 1 for row in sorted(unusable)],
    )
