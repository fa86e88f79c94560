"""Emergence, harvest and tillage of simulated seasons found and scored against their truth; and the time that the markers take.

    python -m research.bench.field_work [--json] [--parcels 600] [--seasons 2023:41,2024:42,2025:43]

Scored are arable fields that grow what was declared, without another injected event. An event is found where one lies within 15 days of the
true day (tillage 20). `days_to_say` is from the true day to the first of the dates asked (every ten days) on which the marker says so.
True tillage is each day on which the simulated soil becomes rougher by 0.2 or more, from 16 November on; rolling a seedbed is none.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from monitor.alerts.rules import ClearViews
from monitor.markers.crop_calendar import calendars
from monitor.markers.emergence import emergence
from monitor.markers.field_work import field_work, left_on
from monitor.markers.form import Events, RadarViews
from monitor.markers.harvest import harvest
from monitor.markers.stand import Course, stands
from monitor.markers.tillage import tillage
from research.bench.mowing import observations, processor_seconds
from research.simulator.config import SimulatorConfig
from research.simulator.season import Season, simulate_season

TOLERANCE_DAYS: Final = {"emergence": 15, "harvest": 15, "tillage": 20}
ROUGHER: Final = 0.2
EVERY: Final = 10
Ints = NDArray[np.int64]
Dated = tuple[Ints, Ints]
"""Parcels and days since 1970."""


def series(season: Season) -> tuple[ClearViews, RadarViews]:
    """Return what was observed of a season's parcels, in the order of its truth."""
    nr = {name: place for place, name in enumerate(season.truth.parcels["parcel_id"])}
    frame = observations(season)
    frame = frame.assign(parcel=frame["parcel_id"].map(nr)).sort_values(["parcel", "date"])
    s2, s1 = frame[(frame["sensor"] == "S2") & frame["ndvi"].notna()], frame[frame["sensor"] == "S1"]
    views = ClearViews.greenest(
        s2["parcel"].to_numpy(np.int64), s2["date"].to_numpy("M8[D]"), s2["ndvi"].to_numpy(np.float32), len(nr)
    )
    radar = RadarViews.of_backscatter(
        s1["parcel"].to_numpy(np.int64),
        s1["date"].to_numpy("M8[D]"),
        s1["relative_orbit"].to_numpy(np.int64),
        s1["vv"].to_numpy(np.float64),
        s1["vh"].to_numpy(np.float64),
    )
    return views, radar


def true_events(season: Season) -> dict[str, Dated]:
    """Return the true days of each kind on the parcels that are scored."""
    truth, days = season.truth.parcels, season.truth.days
    disturbed = season.truth.events.query("kind != 'mowing'")["parcel_id"]
    is_scored = truth["is_monitorable"] & (truth["declared"] == truth["grown"]) & ~truth["parcel_id"].isin(disturbed)
    of = calendars(list(truth["declared"]), season.config.year)
    places = np.flatnonzero(is_scored.to_numpy() & of.is_arable)
    found = {}
    for kind in ("emergence", "harvest"):
        day = truth[kind].to_numpy("M8[D]")[places]
        # What comes up before the first view may be seen as it rises; what happens in the last days cannot be.
        inside = (day >= days[0]) & (day <= days[-1] - TOLERANCE_DAYS[kind])
        found[kind] = places[inside], day[inside].astype(np.int64)
    rougher = np.diff(season.states.roughness[places], axis=1, prepend=0) >= ROUGHER
    rougher[:, (days < of.winter_from) | (days > days[-1] - 20)] = False
    parcel, column = np.nonzero(rougher)
    return found | {"tillage": (places[parcel], days[column].astype(np.int64)), "scored": (places, places)}


def matched(truth: Dated, events: Events, days: int) -> tuple[Ints, Ints]:
    """Return of each true event the days to the nearest found one, and the other way round; far where there is none within reach."""
    apart = 1 << 20
    one, other = truth[0] * apart + truth[1], events.parcel * apart + events.best.astype("M8[D]").astype(np.int64)
    return _off(one, other, days), _off(other, one, days)


def _off(of: Ints, to: Ints, days: int) -> Ints:
    to = np.concatenate([[-(1 << 60)], np.sort(to), [1 << 60]])
    behind = np.searchsorted(to, of)
    off = np.where(to[behind] - of < of - to[behind - 1], to[behind] - of, to[behind - 1] - of)
    return np.where(np.abs(off) <= days, off, _NONE)


_NONE: Final = 1 << 30


def score(season: Season) -> dict[str, Any]:
    """Return the scores of one season, by kind."""
    truth, (views, radar) = true_events(season), series(season)
    first_said = {kind: np.full(len(truth[kind][0]), np.iinfo(np.int64).max) for kind in TOLERANCE_DAYS}
    for today, events in _by_date(season, views, radar):
        for kind, days in TOLERANCE_DAYS.items():
            near, _ = matched(truth[kind], events[kind], days)
            first_said[kind] = np.where(near == _NONE, first_said[kind], np.minimum(first_said[kind], today))
    found = {}
    for kind, days in TOLERANCE_DAYS.items():
        scored = events[kind].only(np.isin(events[kind].parcel, truth["scored"][0]))
        by_truth, by_found = matched(truth[kind], scored, days)
        hit, right = by_truth != _NONE, by_found != _NONE
        early = _seen_before(season, kind, scored)
        precision, recall = right.sum() / max((right | ~early).sum(), 1), hit.mean()
        said = (first_said[kind] - truth[kind][1])[hit & (first_said[kind] < np.iinfo(np.int64).max)]
        found[kind] = {
            "events": len(hit),
            "found": int((right | ~early).sum()),
            "precision": round(float(precision), 3),
            "recall": round(float(recall), 3),
            "f1": round(float(2 * precision * recall / (precision + recall)), 3),
            "mean_days_off": round(float(np.abs(by_truth[hit]).mean()), 1),
            "bias_days": round(float(by_truth[hit].mean()), 1),
            "days_to_say": int(np.median(said)),
        }
    return found


def _seen_before(season: Season, kind: str, events: Events) -> NDArray[np.bool_]:
    """Return which events lie at the season's first or last days, where the truth does not say."""
    days, margin = season.truth.days, np.timedelta64(TOLERANCE_DAYS[kind], "D")
    return np.asarray((events.best < days[0] + 2 * margin) | (events.best > days[-1] - 2 * margin))


def _by_date(season: Season, views: ClearViews, radar: RadarViews) -> Iterator[tuple[int, dict[str, Events]]]:
    """Yield what the markers say on dates of the season, the last day last."""
    days, codes = season.truth.days, list(season.truth.parcels["declared"])
    for today in [*days[90::EVERY], days[-1]]:
        seen, passed = views.only(views.days <= today), radar.only(radar.days <= today)
        said = field_work(seen, passed, codes, season.config.year, np.full(views.n_parcels, today))
        yield int(today.astype(np.int64)), {kind: getattr(said, kind).events for kind in TOLERANCE_DAYS}


def timed(season: Season) -> dict[str, float]:
    """Return the microseconds of the processor a parcel, the least of five runs, with all that a season holds."""
    (views, radar), codes = series(season), list(season.truth.parcels["declared"])
    of, today = calendars(codes, season.config.year), np.full(views.n_parcels, season.truth.days[-1].astype(np.int64))
    course = Course.of(views)
    found = stands(course, of)
    left = left_on(harvest(course, of, found, today, radar))
    runs: dict[str, Any] = {
        "table_and_stand_us": lambda: stands(Course.of(views), of),
        "emergence_us": lambda: emergence(course, of, found),
        "harvest_us": lambda: harvest(course, of, found, today, radar),
        "tillage_us": lambda: tillage(course, of, found, left, radar),
    }
    return {
        name: round(min(processor_seconds(run) for _ in range(5)) / views.n_parcels * 1e6, 1)
        for name, run in runs.items()
    }


def main(
    parcels: Annotated[int, typer.Option(min=20, help="fields of each season")] = 600,
    seasons: Annotated[str, typer.Option(help="year:seed, separated by commas")] = "2023:41,2024:42,2025:43",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Score emergence, harvest and tillage of simulated seasons and time the markers."""
    found = {}
    for name in seasons.split(","):
        year, seed = map(int, name.split(":"))
        season = simulate_season(SimulatorConfig(year=year, seed=seed, n_parcels=parcels, n_pixels=1))
        found[f"{year}, seed {seed}"] = score(season)
    times = timed(season)
    if as_json:
        typer.echo(json.dumps({"seasons": found, **times}))
        return
    table = pd.concat({name: pd.DataFrame(of).T for name, of in found.items()})
    typer.echo(table.to_string())
    typer.echo(", ".join(f"{key} {value}" for key, value in times.items()))


if __name__ == "__main__":
    typer.run(main)
