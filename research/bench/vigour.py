"""Vigour below the neighbours' on simulated seasons with thin stands, and on the Dutch parcels.

    python -m research.bench.vigour [--json] [--parcels 1500] [--seasons 2023:41,2024:42,2025:43] [--past] [--nl FOLDER]

Asked at the end of each dekad, as a season runs; a parcel counts where it was marked on any of these days. Sound are fields that grow what
was declared, without an injected event. `thin` is a twentieth of them, drawn by chance, on which a share of the NDVI above bare soil is
missing from emergence on; `thin since a day` a twentieth from a day of the crop's growth on. The other kinds are the simulator's events.
Leys that lie bare in the season are apart: they are sown anew among old swards, and below these until they close.
With `--past` also grassland and permanent crops beside their own four seasons before, on the same landscape.
"""

import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from monitor.alerts.rules import LOSS_NDVI, ClearViews
from monitor.alerts.settings import RuleSettings
from monitor.dekads import dekad_number, dekad_numbers
from monitor.markers.bands import Bands, bands, greenest
from monitor.markers.crop_calendar import calendars
from monitor.markers.own_past import crop_group, norms, own_past
from monitor.markers.vigour import vigour
from research.bench.field_work import series
from research.seasons.nl import METRES, MIN_AREA_HA
from research.simulator.config import SimulatorConfig
from research.simulator.season import Season, simulate_season

SOIL_NDVI: Final = 0.15
LEFT: Final = (0.7, 0.5)
"""Shares of the NDVI above bare soil that thin stands have."""
YEARS: Final = 4
"""Past seasons that are compared with."""
LEYS: Final = ("3301090100", "3301090301")
Days = tuple[date, date]
"""A season's first and last."""


def by_dekad(views: ClearViews, season: Days) -> NDArray[np.float32]:
    """Return (P, K) the greenest views."""
    first, last = map(dekad_number, season)
    return greenest(views.parcel, dekad_numbers(views.days) - first, views.ndvi, (views.n_parcels, last - first + 1))


def marked(
    green: NDArray[np.float32], groups: list[tuple[str, str]], codes: list[str | None], season: Days
) -> pd.DataFrame:
    """Return of each parcel whether it was ever marked, at the end, and whether it could be, by the bands as known in the end."""
    n_parcels, n_dekads = green.shape
    place = {group: nr for nr, group in enumerate(sorted(set(groups)))}
    group = np.array([place[one] for one in groups], np.int64)
    found = bands(green, group, len(place), RuleSettings().neighbours_min)
    known = Bands.of([found[:, nr] for nr in range(len(place))], dekad_number(season[0]), n_dekads)
    of, everyone = calendars(codes, (season[0] + (season[1] - season[0]) // 2).year), np.ones(n_parcels, bool)
    ever = np.zeros(n_parcels, bool)
    for dekad in range(n_dekads + 1):
        said = vigour(green, known, group, np.full(n_parcels, dekad), of, everyone)
        ever |= said.value > 0
    return pd.DataFrame({"ever": ever, "end": said.value > 0, "valid": np.isfinite(said.value)})


def score(season: Season, left: float) -> pd.DataFrame:
    """Return the parcels of a season with what is true of them and whether they are marked."""
    truth, chance = season.truth.parcels, np.random.default_rng(season.config.seed)
    parcels = season.parcels.set_index("parcel_id").loc[truth["parcel_id"]]
    codes, days = list(parcels["hcat_code"]), (season.starts_on, season.ends_on)
    (views, _), of = series(season), calendars(codes, season.config.year)
    event = season.truth.events.query("kind != 'mowing'").groupby("parcel_id")["kind"].first()
    kind = truth["parcel_id"].map(event).fillna("sound").to_numpy(object)
    lay_bare = (by_dekad(views, days) < LOSS_NDVI).sum(axis=1) >= 2
    kind[(kind == "sound") & truth["declared"].isin(LEYS).to_numpy() & lay_bare] = "ley, sown anew"
    draw, is_sound = chance.random(len(kind)), kind == "sound"
    kind[is_sound & (draw < 0.1)] = "thin since a day"
    kind[is_sound & (draw < 0.05)] = "thin"
    span = chance.uniform(0.3, 0.9, len(kind)) * (of.peaks_until - of.emerges_from).astype(np.int64)
    since = of.emerges_from + np.where(kind == "thin", 0, span).astype("m8[D]")
    is_thin = np.isin(kind, ["thin", "thin since a day"])[views.parcel] & (views.days >= since[views.parcel])
    thin = np.minimum(views.ndvi, SOIL_NDVI + left * (views.ndvi - SOIL_NDVI)).astype(np.float32)
    views = ClearViews(views.parcel, views.days, np.where(is_thin, thin, views.ndvi), views.n_parcels)
    groups = list(zip(parcels["region"].astype(str), parcels["crop_code"].astype(str), strict=True))
    found = marked(by_dekad(views, days), groups, codes, days).assign(kind=kind)
    return found[truth["is_monitorable"].to_numpy(bool)]


def beside_its_past(year: int, seed: int, n_parcels: int) -> pd.DataFrame:
    """Return grassland and permanent crops of a season, compared with the same shapes of the four seasons before."""
    *past, season = (
        simulate_season(SimulatorConfig(year=one, seed=seed, n_parcels=n_parcels, n_pixels=1))
        for one in range(year - YEARS, year + 1)
    )
    (truth, (shape, group, green)), kept = (season.truth, _ground(season)), list[NDArray[np.float32]]()
    for one in past:
        shapes, groups, then = _ground(one)
        place = {which: nr for nr, which in enumerate(zip(shapes, groups, strict=True))}
        before = np.array([place.get(which, len(then)) for which in zip(shape, group, strict=True)])
        kept.append(np.concatenate([then, np.full((1, then.shape[1]), np.nan, np.float32)])[before])
    middle, sd = norms(np.stack(kept))
    ever, first = np.zeros(len(green), bool), dekad_number(season.starts_on)
    for dekad in range(green.shape[1] + 1):
        said = own_past(green, middle, sd, np.full(len(green), dekad), first, group)
        ever |= said.value > 0
    event = season.truth.events.query("kind != 'mowing'").groupby("parcel_id")["kind"].first()
    kind = truth.parcels["parcel_id"].map(event).fillna("sound").to_numpy(object)
    kind[(truth.parcels["declared"] != truth.parcels["grown"]).to_numpy()] = "wrong_declaration"
    found = pd.DataFrame({"ever": ever, "end": said.value > 0, "valid": np.isfinite(said.value)})
    found["kind"] = [f"{of} {what}" for of, what in zip(group, kind, strict=True)]
    return found[truth.parcels["is_monitorable"].to_numpy(bool) & [of is not None for of in group]]


def _ground(season: Season) -> tuple[list[bytes], list[str | None], NDArray[np.float32]]:
    """Return the shapes of a season's parcels, the groups of their declared crops and their greenest views."""
    parcels = season.parcels.set_index("parcel_id").loc[season.truth.parcels["parcel_id"]]
    green = by_dekad(series(season)[0], (season.starts_on, season.ends_on))
    return [one.wkb for one in parcels.geometry], [crop_group(code) for code in parcels["hcat_code"]], green


def dutch(folder: Path) -> pd.DataFrame:
    """Return the recorded parcels of at least 0.3 ha by crop, as one region; of their crops only the agency's code is known."""
    parcels, views = gpd.read_file(folder / "parcels.geojson"), pd.read_parquet(folder / "s2_indices.parquet")
    parcels = parcels[parcels.to_crs(METRES).area >= MIN_AREA_HA * 1e4].reset_index(drop=True)
    views["parcel"] = views["gid"].map({gid: nr for nr, gid in enumerate(parcels["gid"])})
    views = views.dropna(subset=["parcel", "NDVI"])
    clear = ClearViews(
        views["parcel"].to_numpy(np.int64),
        pd.to_datetime(views["date"]).to_numpy("M8[D]"),
        views["NDVI"].to_numpy(np.float32),
        len(parcels),
    )
    year = date(2023, 1, 1), date(2023, 12, 31)
    groups = [("", str(code)) for code in parcels["crop_code"]]
    found = marked(by_dekad(clear, year), groups, [None] * len(parcels), year).assign(kind=parcels["crop_name"])
    return found[found["valid"]]


def _counts(found: pd.DataFrame) -> pd.DataFrame:
    return found.groupby("kind").agg(
        parcels=("ever", "size"), valid=("valid", "sum"), ever=("ever", "sum"), end=("end", "sum")
    )


def main(
    parcels: Annotated[int, typer.Option(min=20, help="fields of each season")] = 1500,
    seasons: Annotated[str, typer.Option(help="year:seed, separated by commas")] = "2023:41,2024:42,2025:43",
    past: Annotated[bool, typer.Option("--past", help="compare grassland with its past, too")] = False,
    nl: Annotated[Path | None, typer.Option(help="folder of the Dutch parcels")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Count marked parcels of simulated seasons by what is true of them, and of the Dutch ones by crop."""
    pairs = [(int(year), int(seed)) for year, seed in (one.split(":") for one in seasons.split(","))]
    simulated = [
        simulate_season(SimulatorConfig(year=year, seed=seed, n_parcels=parcels, n_pixels=1)) for year, seed in pairs
    ]
    tables = {f"left {left}": _counts(pd.concat([score(one, left) for one in simulated])) for left in LEFT}
    if past:
        tables["own past"] = _counts(pd.concat([beside_its_past(year, seed, parcels) for year, seed in pairs]))
    if nl is not None:
        tables["Dutch parcels"] = _counts(dutch(nl))
    if as_json:
        figures: dict[str, Any] = {name: json.loads(one.to_json(orient="index")) for name, one in tables.items()}
        typer.echo(json.dumps(figures))
        return
    for name, one in tables.items():
        typer.echo(f"{name}\n{one.to_string()}\n")


if __name__ == "__main__":
    typer.run(main)
