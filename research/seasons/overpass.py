"""When Sentinel-1 and Sentinel-2 pass over a place, for sources that give a day and, at most, a relative orbit.

    u = asin(sin(latitude) / sin(i)), pi - u when descending      argument of latitude
    t = t_node + P u / 2 pi                                       pass time

A relative orbit of Sentinel-1 has its ascending node at the same time of day whatever the satellite and the cycle
(12 days, 175 orbits; satellites six days apart), and that node is at 18:00 mean local solar time: so orbit number and
longitude distinguish ascending (evening) from descending (morning). Sentinel-2 observes on the descending half, node at 10:30.
Sources: Sentinel-1 and Sentinel-2 mission guides (ESA): inclination, cycle, node times.
Units: degrees, UTC. Good to a few minutes: the swath is 250 km wide (290 km for Sentinel-2).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from math import acos, asin, cos, degrees, pi, radians, sin, tau
from typing import Literal

DAY = timedelta(days=1)
INCLINATION = {"S1": radians(98.18), "S2": radians(98.62)}
ORBITS_PER_CYCLE = {"S1": (175, 12 * DAY), "S2": (143, 10 * DAY)}

# The annotation of a Sentinel-1B product: absolute orbit 20698, so relative orbit (20698 - 27) mod 175 + 1 = 22.
NODE_ORBIT = 22
NODE_TIME = datetime(2020, 3, 15, 4, 33, 22, tzinfo=UTC)
SENTINEL_1B_ENDED = date(2021, 12, 23)  # its last day with products; its place in the cycle is Sentinel-1C's since


def direction(relative_orbit: int, longitude: float) -> Literal["ascending", "descending"]:
    """Return the half of a Sentinel-1 orbit that is seen from a longitude: evening passes ascend, morning passes descend."""
    node = _node(relative_orbit)
    local_hour = (node.hour + node.minute / 60 + longitude / 15) % 24
    return "ascending" if local_hour >= 12 else "descending"


def sentinel1_pass(on: date, relative_orbit: int, longitude: float, latitude: float) -> datetime:
    """Return the time on day `on` (UTC) at which Sentinel-1 passes over a place in a relative orbit."""
    is_descending = direction(relative_orbit, longitude) == "descending"
    passed = _node(relative_orbit) + _since_node("S1", latitude, is_descending)
    return _at(on, passed - datetime.combine(passed, time(), UTC))


def sentinel1_platform(on: date, relative_orbit: int) -> str:
    """Return the satellite that flies a relative orbit on a day: S1A, or the one half a cycle after it (S1B, later S1C)."""
    phase = round((datetime.combine(on, time(12), UTC) - _node(relative_orbit)) / DAY) % 12
    if min(phase, 12 - phase) > 1:
        return "S1A"
    return "S1B" if on <= SENTINEL_1B_ENDED else "S1C"


def sentinel2_pass(on: date, longitude: float, latitude: float) -> datetime:
    """Return the time on day `on` (UTC) at which Sentinel-2 passes over a place at the middle of its swath."""
    u = _argument(latitude, "S2", is_descending=True)
    # East of the node it comes from north of: the right ascension by which the track leads the descending node.
    lead = degrees(acos(max(-1.0, min(1.0, -cos(u) / cos(radians(latitude))))))
    hours = 10.5 + lead / 15 - longitude / 15
    return _at(on, timedelta(hours=hours))


def _node(relative_orbit: int) -> datetime:
    """Return a time at which a relative orbit of Sentinel-1 (satellite B's place) crosses its ascending node."""
    orbits, cycle = ORBITS_PER_CYCLE["S1"]
    return NODE_TIME + (relative_orbit - NODE_ORBIT) * cycle / orbits


def _since_node(sensor: Literal["S1", "S2"], latitude: float, is_descending: bool) -> timedelta:
    orbits, cycle = ORBITS_PER_CYCLE[sensor]
    return cycle / orbits * (_argument(latitude, sensor, is_descending) / tau)


def _argument(latitude: float, sensor: Literal["S1", "S2"], is_descending: bool) -> float:
    u = asin(max(-1.0, min(1.0, sin(radians(latitude)) / sin(INCLINATION[sensor]))))
    return pi - u if is_descending else u


def _at(on: date, after_midnight: timedelta) -> datetime:
    """Return day `on` at a time of day, to the second."""
    seconds = round((after_midnight % DAY).total_seconds()) % 86_400
    return datetime.combine(on, time(), UTC) + timedelta(seconds=seconds)
