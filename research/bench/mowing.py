"""Mowings of simulated seasons found and scored, beside a plain fall of NDVI; and the time that the markers of grass take.

    python -m research.bench.mowing [--json] [--parcels 600] [--seeds 11,12,13] [--timed 4096]

Scored are swards that grow what was declared (permanent and temporary grassland, alfalfa); `other_crops_per_parcel` is of the others,
where a policy would not ask. Times are seconds of the processor for parcels of 60 clear views and 120 passes of radar with coherence.
The simulator has no coherence, and its cuts fall on dry days and grow back faster than real ones.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import typer

from monitor.alerts.rules import ClearViews
from monitor.markers.form import RadarViews
from monitor.markers.grazing import grazing
from monitor.markers.mowing import mowing
from research.simulator.config import SimulatorConfig
from research.simulator.season import Season, simulate_season
from training.event_evaluation import Evaluated, evaluate
from training.event_tables import DatedEvents, read_series

SWARDS: Final = ("permanent grassland", "temporary grassland", "alfalfa")
TOLERANCE_DAYS: Final = 15
FIRST_YEAR: Final = 2023


def observations(season: Season) -> pd.DataFrame:
    """Return the observations of a season in the form that `evaluate events` reads (docs/events.md)."""
    tables = list[pd.DataFrame]()
    for one in season.acquisitions():
        frame = one.table.drop_columns(["pixels"]).to_pandas()
        at = pd.to_datetime(frame["observed_at"], utc=True).dt.tz_localize(None).dt.normalize()
        row = pd.DataFrame({"parcel_id": frame["parcel_id"], "date": at, "relative_orbit": frame["relative_orbit"]})
        if one.sensor == "s2":
            tables.append(row.assign(sensor="S2", ndvi=frame["NDVI"]))
        else:
            tables.append(row.assign(sensor="S1", vv=10 * np.log10(frame["VV"]), vh=10 * np.log10(frame["VH"])))
    return pd.concat(tables, ignore_index=True)


def score(season: Season) -> dict[str, Any]:
    """Return the scores of one season."""
    truth, frame = season.truth.parcels.set_index("parcel_id"), observations(season)
    crops = season.parcels.set_index("parcel_id")["crop_name"]
    is_sward = crops.isin(SWARDS) & (truth["declared"] == truth["grown"]).reindex(crops.index)
    mown = season.truth.events.query("kind == 'mowing'")
    found = {}
    with TemporaryDirectory() as folder:
        for name, chosen in (("swards", is_sward), ("others", ~is_sward)):
            path = Path(folder) / f"{name}.parquet"
            ids = chosen.index[chosen]
            frame[frame["parcel_id"].isin(ids)].to_parquet(path)
            events = mown[mown["parcel_id"].isin(ids)]
            day = events["day"].to_numpy("M8[D]")
            truths = DatedEvents(events["parcel_id"].to_numpy(object), day, day)
            found[name] = evaluate(read_series(path), truths, "mowing", TOLERANCE_DAYS)
    return {**_scores(found["swards"]), "other_crops_per_parcel": _per_parcel(found["others"])}


def _scores(of: Evaluated) -> dict[str, Any]:
    return {**of.scores.as_json(), "parcels": len(of.truth), "baseline_f1": of.baseline.as_json()["f1"]}


def _per_parcel(of: Evaluated) -> float:
    return round(len(of.found.events.parcel) / max(len(of.truth), 1), 3)


def meadows(n_parcels: int, seed: int) -> tuple[ClearViews, RadarViews]:
    """Return meadows cut twice: 60 clear views and 120 passes of four orbits, with coherence."""
    random, first = np.random.default_rng(seed), np.datetime64("2024-01-01")
    day = np.sort(random.permuted(np.tile(np.arange(0, 300, 2), (n_parcels, 1)), axis=1)[:, :60], axis=1)
    corners = ((0, 60, 130, 160, 164, 190, 220, 223, 250, 300), (0.4, 0.45, 0.85, 0.85, 0.5, 0.8, 0.8, 0.5, 0.75, 0.6))
    ndvi = np.interp(day, *corners) + random.normal(0, 0.02, day.shape)
    parcel = np.arange(n_parcels)
    views = ClearViews(np.repeat(parcel, 60), first + day.ravel(), ndvi.ravel().astype(np.float32), n_parcels)
    passes = np.sort(np.concatenate([np.arange(start, start + 180, 6) for start in (60, 62, 63, 65)]))
    n = n_parcels * len(passes)
    days = first + np.tile(passes, n_parcels)
    orbit = np.tile(np.select([passes % 6 == at for at in (0, 2, 3)], [15, 37, 88], 110), n_parcels)
    backscatter, coherence = random.normal((-12, -18), 1, (n, 2)).T, random.uniform(0.2, 0.5, (2, n))
    return views, RadarViews(np.repeat(parcel, len(passes)), days, orbit, *backscatter, *coherence)


def timed(n_parcels: int) -> dict[str, float]:
    """Return the microseconds of the processor a parcel, the least of three runs."""
    views, radar = meadows(n_parcels, 0)
    cuts = mowing(views, radar)
    runs = {
        "mowing_optical_us": lambda: mowing(views),
        "mowing_us": lambda: mowing(views, radar),
        "grazing_us": lambda: grazing(views, cuts=cuts),
    }
    return {
        name: round(min(processor_seconds(run) for _ in range(3)) / n_parcels * 1e6, 1) for name, run in runs.items()
    }


def processor_seconds(run: Callable[[], object]) -> float:
    """Return the seconds of the processor that a call takes."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def main(
    parcels: Annotated[int, typer.Option(min=20, help="fields of each season")] = 600,
    seeds: Annotated[str, typer.Option(help="of the seasons, separated by commas")] = "11,12,13",
    parcels_timed: Annotated[int, typer.Option("--timed", min=1, help="parcels whose time is taken")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Score mowings of simulated seasons and time the markers of grass."""
    found = {}
    for nr, seed in enumerate(seeds.split(",")):
        year = FIRST_YEAR + nr
        found[f"{year}, seed {seed}"] = score(
            simulate_season(SimulatorConfig(year=year, seed=int(seed), n_parcels=parcels, n_pixels=1))
        )
    times = timed(parcels_timed)
    if as_json:
        typer.echo(json.dumps({"seasons": found, **times}))
        return
    for name, scores in found.items():
        typer.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in scores.items()))
    typer.echo(", ".join(f"{key} {value}" for key, value in times.items()))


if __name__ == "__main__":
    typer.run(main)
