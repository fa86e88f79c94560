"""Checks of parcels that need the whole file: ids of their own, outlines that lie on others."""

import re
from collections import Counter
from typing import Final

from ingest.parcels.arrays import masked
from ingest.parcels.columns import ParcelColumns
from ingest.parcels.declared import Declared
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.files import ParcelFile, read_features
from ingest.parcels.geometry import Outlines
from ingest.parcels.overlaps import overlap_share, repeated
from ingest.parcels.texts import UNSTORABLE, id_part

MAX_TRIED: Final = 50
"""Columns that are searched for an id; further ones cannot be named in a line anyway."""
_MEASURE: Final = re.compile(r"-?\d+\.\d+(e[+-]?\d+)?$", re.IGNORECASE)
MAX_SHARED_IDS: Final = 0.3
"""Share of parcels without an id of their own from which a file is refused (the agencies' own have up to 7 %)."""
NAMED_IDS: Final = 5
"""Source ids that a remark names."""


def refuse_shared_ids(file: ParcelFile, columns: ParcelColumns, declared: Declared) -> None:
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
            seen = values[column]
            new = {part for part, is_usable in parts if part and is_usable and not _MEASURE.match(part)}
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
