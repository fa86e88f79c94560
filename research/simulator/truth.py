"""What really happened in a simulated season, to score a monitor against."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from research.simulator import optics
from research.simulator.crops import CROPS
from research.simulator.events import Events
from research.simulator.growth import FieldStates, Mowing
from research.simulator.plan import NEVER, Plan

Float32 = NDArray[np.float32]
IntArray = NDArray[np.int64]

RISE, FALL_CROP, FALL_SWARD = 0.25, 0.75, 0.25  # SOS at 25 % of amplitude, EOS 75 % down (grass 25 %): FAO ASIS


@dataclass(frozen=True)
class Truth:
    """Truth of a season, in the order of the parcels."""

    events: pd.DataFrame
    """parcel_id, kind, day (date), until (date or NaT; floods), declared and grown (HCAT codes); one row an event.

    Kinds: wrong_declaration (day = sowing), no_emergence (day emergence was due), early_loss, grassland_ploughed,
    flood, mowing.
    """
    parcels: pd.DataFrame
    """parcel_id, region, is_monitorable, declared, grown (HCAT), sowing, emergence, harvest, sos, pos, eos (dates)."""
    days: NDArray[np.datetime64]
    """The season's days, (T,)."""
    ndvi: Float32
    """Cloud-free, noise-free NDVI of each parcel and day, (P, T)."""


def daily_ndvi(states: FieldStates, crop: IntArray, traits: Float32, soil: Float32, wetness: Float32) -> Float32:
    """Return NDVI (P, T) of the fields' mean reflectance without cloud or noise; wetness (P, T)."""
    out = np.empty(states.lai.shape, np.float32)
    for t in range(states.lai.shape[1]):
        canopy, ground, area = optics.mixture(states, t, crop, traits, soil, wetness[:, t])
        mean = optics.field_reflectance(canopy, ground, area, states.flooded[:, t])
        out[:, t] = optics.ndvi(mean[:, optics.RED], mean[:, optics.NIR])
    return out


def event_table(parcel_id: NDArray[np.str_], plan: Plan, events: Events, cuts: list[Mowing], year: int) -> pd.DataFrame:
    """Return the events as a table, by day."""
    rows: list[tuple[str, str, date, date | None, str, str]] = []

    def add(i: int, kind: str, day: int, until: int | None = None) -> None:
        declared, grown = CROPS[events.declared[i]].hcat_code, CROPS[plan.crop[i]].hcat_code
        last = None if until is None else to_date(year, until)
        rows.append((str(parcel_id[i]), kind, to_date(year, day), last, declared, grown))

    for i in np.flatnonzero(events.declared != plan.crop):
        sown = int(plan.sowing[i])
        add(int(i), "wrong_declaration", sown if sown < NEVER else 0)
    for kind, days in (
        ("no_emergence", events.no_emergence),
        ("early_loss", events.early_loss),
        ("grassland_ploughed", events.grassland_ploughed),
    ):
        for i in np.flatnonzero(days < NEVER):
            add(int(i), kind, int(days[i]))
    for i in np.flatnonzero(events.flood_from < NEVER):
        add(int(i), "flood", int(events.flood_from[i]), int(events.flood_until[i]))
    for cut in cuts:
        add(cut.row, "mowing", cut.day)
    names = ["parcel_id", "kind", "day", "until", "declared", "grown"]
    frame = pd.DataFrame(rows, columns=names)
    frame["day"], frame["until"] = pd.to_datetime(frame["day"]), pd.to_datetime(frame["until"])
    return frame.sort_values(["day", "parcel_id"], ignore_index=True)


def phenology(ndvi: Float32, days: IntArray, plan: Plan, end: IntArray) -> IntArray:
    """Return SOS, POS and EOS (P, 3) as days, NEVER where the season holds none; `end` is the day the crop left the field."""
    out = np.full((len(ndvi), 3), NEVER)
    for i, curve in enumerate(ndvi):
        kind = CROPS[plan.crop[i]].kind
        first = int(plan.sowing[i]) if kind == "annual" else 0  # swards and vines: from 1 January
        start = int(np.clip(first - days[0], 0, len(days) - 1))
        stop = int(np.clip(end[i] - days[0] + 3, start + 1, len(days)))
        peak = start + int(np.argmax(curve[start:stop]))
        before = start + int(np.argmin(curve[start : peak + 1]))
        low, high = float(curve[before]), float(curve[peak])
        if high - low < 0.1:  # nothing grew
            continue
        above = curve[before : peak + 1] >= low + RISE * (high - low)
        last = float(curve[peak:].min())
        fall = FALL_CROP if kind == "annual" else FALL_SWARD
        below = curve[peak:] <= high - fall * (high - last)
        out[i, :2] = days[before + int(np.argmax(above))], days[peak]
        if below.any():
            out[i, 2] = days[peak + int(np.argmax(below))]
    return out


def to_date(year: int, day: int) -> date:
    """Return the date of a day counted from 1 January of the harvest year."""
    return date(year, 1, 1) + timedelta(days=day)


def to_dates(year: int, days: IntArray) -> pd.Series:
    """Return dates of days; NaT where NEVER."""
    known = np.where(days < NEVER, days, 0)
    dates = np.datetime64(f"{year}-01-01") + known.astype("timedelta64[D]")
    return pd.Series(dates.astype("datetime64[ns]")).where(days < NEVER)


def make_truth(
    parcel_id: NDArray[np.str_],
    region: NDArray[np.str_],
    is_monitorable: NDArray[np.bool_],
    plan: Plan,
    events: Events,
    cuts: list[Mowing],
    ndvi: Float32,
    days: IntArray,
    year: int,
) -> Truth:
    """Return the truth of a season whose columns are `days`; ndvi (P, T)."""
    end = np.minimum(plan.harvest, events.early_loss)
    seasons = phenology(ndvi, days, plan, end)
    failed = events.no_emergence < NEVER
    seasons[failed] = NEVER
    dated = {
        "sowing": plan.sowing,
        "emergence": np.where(failed, NEVER, plan.emergence),
        "harvest": np.where(failed, NEVER, end),
        "sos": seasons[:, 0],
        "pos": seasons[:, 1],
        "eos": seasons[:, 2],
    }
    parcels = pd.DataFrame(
        {
            "parcel_id": parcel_id,
            "region": region,
            "is_monitorable": is_monitorable,
            "declared": [CROPS[c].hcat_code for c in events.declared],
            "grown": [CROPS[c].hcat_code for c in plan.crop],
        }
        | {name: to_dates(year, values) for name, values in dated.items()}
    )
    axis = (np.datetime64(f"{year}-01-01") + days.astype("timedelta64[D]")).astype("datetime64[D]")
    table = event_table(parcel_id, plan, events, cuts, year)
    in_season = table["day"].between(pd.Timestamp(axis[0]), pd.Timestamp(axis[-1]))
    kept = table[in_season | (table["kind"] == "wrong_declaration")].reset_index(drop=True)
    return Truth(kept, parcels, axis, ndvi)
