"""The same ground in past seasons: predecessors of parcels by lineage, and the norm that is found of them once a season."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.columns import fetch_columns
from db.series import Keys


@dataclass(frozen=True)
class Predecessor:
    """What lay on a parcel's ground in a past season."""

    place: int
    """Of the parcel among those asked for."""
    parcel_key: int
    hcat_code: str | None
    starts_on: date
    ends_on: date


@dataclass(frozen=True)
class Norms:
    """Norms of P parcels."""

    n_seasons: NDArray[np.int64]
    """(P,) past seasons of the same crop group; -1 where no norm is stored."""
    middle: NDArray[np.float32]
    """(P, K) median by dekad of the season, NaN where it has none."""
    sd: NDArray[np.float32]
    """(P, K) robust standard deviation."""


def predecessors(connection: sa.Connection, parcels: Keys, least_share: float, most: int) -> list[Predecessor]:
    """Return the parcels below each parcel in up to `most` past seasons: season by season the one on which at least a share of it lies."""
    rows = connection.execute(
        sa.text("""
            with recursive back as (
                select nr - 1 as place, key as parcel_key, 0 as n from unnest(cast(:keys as bigint[])) with ordinality as w (key, nr)
                union all
                select place, lineage.predecessor_key, n + 1 from back cross join lateral (
                    select predecessor_key from parcel_lineage
                    where parcel_lineage.parcel_key = back.parcel_key and area_share >= :least_share
                    order by area_share desc, predecessor_key limit 1) lineage
                where n < :most)
            select place, back.parcel_key, hcat_code, starts_on, ends_on
            from back join parcels using (parcel_key) join seasons using (season_key)
            left join lateral declaration_known(back.parcel_key) declared on true
            where n > 0 order by place, n"""),
        {"keys": parcels.tolist(), "least_share": least_share, "most": most},
    )
    return [Predecessor(*row) for row in rows]


def norms(connection: sa.Connection, parcels: Keys, groups: Sequence[str], n_dekads: int) -> Norms:
    """Return the stored norms of parcels (P,) of their crop groups (P,) and of so many dekads."""
    rows = fetch_columns(
        connection,
        """select nr - 1 as place, n_seasons, middle_ndvi, sd_ndvi
           from unnest(%s::bigint[], %s::text[]) with ordinality as wanted (key, crop_group, nr)
           join parcel_norms stored on (stored.parcel_key, stored.crop_group) = (key, wanted.crop_group)
           where cardinality(middle_ndvi) = %s""",
        [parcels, list(groups), n_dekads],
        {"place": "int", "n_seasons": "smallint", "middle_ndvi": n_dekads, "sd_ndvi": n_dekads},
    )
    found = Norms(np.full(len(parcels), -1), *np.full((2, len(parcels), n_dekads), np.nan, np.float32))
    found.n_seasons[rows["place"]] = rows["n_seasons"]
    found.middle[rows["place"]], found.sd[rows["place"]] = rows["middle_ndvi"], rows["sd_ndvi"]
    return found


def save(connection: sa.Connection, parcels: Keys, groups: Sequence[str], found: Norms, recorded_at: datetime) -> None:
    """Store the norms of parcels (P,) in the place of what was stored of them."""
    connection.execute(sa.text("delete from parcel_norms where parcel_key = any(:keys)"), {"keys": parcels.tolist()})
    n_dekads = found.middle.shape[1]
    columns = {
        "parcel_key": pa.array(parcels),
        "recorded_at": pa.repeat(pa.scalar(recorded_at, pa.timestamp("us", "UTC")), len(parcels)),
        "crop_group": pa.array(groups),
        "n_seasons": pa.array(found.n_seasons.astype(np.int16)),
        **{
            name: pa.FixedSizeListArray.from_arrays(values.astype(np.float32).ravel(), n_dekads)
            for name, values in (("middle_ndvi", found.middle), ("sd_ndvi", found.sd))
        },
    }
    copy_into(connection, "parcel_norms", list(columns), pa.table(columns))
