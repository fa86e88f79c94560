"""The grassland parcels of `ec-jrc/cbm`, scripts/SALMS/inst/extdata, in the form that `evaluate events` reads.

    gtdir/FOIinfo.csv         ID, Event_date (DD/MM/YYYY): mowings
    tsdir/N_s2_ts.csv         date, band (B04, B08), MEAN
    tsdir/N_s2_idx_ts.csv     date, band (NDVI, ...), MEAN
    tsdir/N_s1_coh6_ts.csv    date (YYYYMMDDTHHMMSS), band (s1_coh6_VV, s1_coh6_VH), MEAN

Optical rows are not masked: B04 and B08 are written beside NDVI, so that the reader masks cloud and shadow. The place of the parcels is not
known, so relative_orbit holds the pass's time of day in steps of 5 minutes, which separates their three orbits. Backscatter is there only
as the ratio of both directions, and is left out.
Errors: EventTableError, one line.
"""

from pathlib import Path
from typing import Final

import pandas as pd

from training.errors import EventTableError

SERIES, EVENTS = "series.parquet", "events.csv"
BANDS: Final = {
    "s2": {"B04": "b04", "B08": "b08"},
    "s2_idx": {"NDVI": "ndvi"},
    "s1_coh6": {"s1_coh6_VV": "coherence_vv", "s1_coh6_VH": "coherence_vh"},
}
"""By the kind of file: its bands and their names in the series."""


def convert_jrc_cbm(folder: Path, out: Path) -> tuple[int, int]:
    """Write `SERIES` and `EVENTS` into a folder; return their numbers of rows."""
    truth = _read(folder / "gtdir" / "FOIinfo.csv", ("ID", "Event_date"))
    try:
        dates = pd.to_datetime(truth["Event_date"], format="%d/%m/%Y")
    except ValueError as error:
        raise EventTableError(f"{folder / 'gtdir' / 'FOIinfo.csv'}: Event_date is not DD/MM/YYYY ({error})") from error
    events = pd.DataFrame({"parcel_id": truth["ID"], "date": dates.dt.strftime("%Y-%m-%d"), "kind": "mowing"})
    rows = pd.concat([_parcel(folder / "tsdir", str(one)) for one in sorted(truth["ID"].unique())], ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(out / SERIES, index=False)
    events.sort_values(["parcel_id", "date"]).to_csv(out / EVENTS, index=False)
    return len(rows), len(events)


def _parcel(folder: Path, parcel: str) -> pd.DataFrame:
    """Return the rows of one parcel; a kind of file may be missing, not all."""
    paths = {kind: folder / f"{parcel}_{kind}_ts.csv" for kind in BANDS}
    if not any(path.exists() for path in paths.values()):
        raise EventTableError(
            f"{folder}: no series of parcel {parcel} ({', '.join(one.name for one in paths.values())})"
        )
    wide = {kind: _wide(path, BANDS[kind]) for kind, path in paths.items()}
    optical = wide["s2"].join(wide["s2_idx"], how="outer").reset_index()
    radar = wide["s1_coh6"].reset_index()
    optical = optical.assign(date=pd.to_datetime(optical["date"]), sensor="S2", relative_orbit=None)
    passed = pd.to_datetime(radar["date"], format="%Y%m%dT%H%M%S")
    radar = radar.assign(date=passed, sensor="S1", relative_orbit=(passed.dt.hour * 60 + passed.dt.minute) // 5)
    rows = pd.concat([one for one in (optical, radar) if len(one)], ignore_index=True).assign(parcel_id=parcel)
    rows["relative_orbit"] = rows["relative_orbit"].astype("Int64")
    return rows.assign(date=rows["date"].dt.normalize(), vv=float("nan"), vh=float("nan"))


def _wide(path: Path, names: dict[str, str]) -> pd.DataFrame:
    """Return a column for each band, a row for each date; no rows where there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=list(names.values()), index=pd.Index([], name="date"), dtype="float64")
    long = _read(path, ("date", "band", "MEAN"))
    long = long[long["band"].isin(list(names))]
    return long.pivot_table(index="date", columns="band", values="MEAN").rename(columns=names)


def _read(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except ValueError as error:
        raise EventTableError(f"{path}: not a CSV file ({str(error).splitlines()[0]})") from error
    if missing := [name for name in needed if name not in frame]:
        raise EventTableError(f"{path}: no column {', '.join(missing)}")
    return frame
