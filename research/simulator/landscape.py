"""A landscape of fields in real regions: who grows what in each year, and under which parcel ids it is declared.

Fields come from recursive cuts of rotated, slightly warped blocks; blocks lie scattered with woods and villages between
them, at one parcel per about a square kilometre-and-a-half of countryside, so that neighbouring fields share weather
and cloud, and blocks can be held out from each other. Crops are clumped: a smooth random field per crop is added to
the log of its share (a spatial multinomial logit).
"""

import math
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import affinity
from shapely.geometry import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

from research.simulator.crops import CROPS, INDEX, PERSISTENCE
from research.simulator.randomness import smooth_field, stream
from research.simulator.regions import REGIONS, Region

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FIRST_YEAR = 2015
"""The year in which crops are first drawn; later years follow by rotation. Before it there is no landscape."""
AREA_SIGMA = (
    0.75  # log-normal spread of field areas; gives 0.3 to 12 ha around 3, as the Dutch parcels of at least 0.3 ha
)
AREA_LIMITS_HA = (0.1, 15.0)
STRIP_CHANCE = 0.05  # a cut yields a narrow strip: the Dutch data are rich in them (703 of 1,236 are below 0.3 ha)
CLUMP_M = 2500.0  # scale of crop clumps: about a farm and its neighbours
CLUMP_WEIGHT = 0.9
DIVIDED_CHANCE = 0.04  # fields that are shared between two crops in a given year, so that lineage is not one to one


@dataclass(frozen=True)
class Landscape:
    """Fields with their crop of every year from FIRST_YEAR to `last_year`."""

    seed: int
    geometry: tuple[Polygon, ...]
    """Field outlines in the UTM zone of their region."""
    region: NDArray[np.str_]
    crops: IntArray
    """(F, Y) index into CROPS of each field and year."""

    def crop_of(self, year: int) -> IntArray:
        """Return crop index of each field in a year, (F,)."""
        column = year - FIRST_YEAR
        if not 0 <= column < self.crops.shape[1]:
            last = FIRST_YEAR + self.crops.shape[1] - 1
            raise ValueError(f"no landscape for {year}: this one has {FIRST_YEAR} to {last}")
        return self.crops[:, column]

    def parcels(self, year: int) -> gpd.GeoDataFrame:
        """Return the parcels as farmed in a year, in EPSG:4326.

        Columns: parcel_id, region, crop_key, previous_key, field (row of the landscape), geometry. Ids are numbered
        anew each year, and about one field in 25 is divided between two crops, so last year's parcel must be found by
        overlap.
        """
        rng = stream(self.seed, "parcels", year)
        now, before = self.crop_of(year), self.crop_of(year - 1)
        draws = rng.random(len(self.geometry))
        rows: list[tuple[str, int, int, int, Polygon]] = []
        for i, polygon in enumerate(self.geometry):
            pieces = [polygon]
            is_arable = CROPS[now[i]].kind == "annual" and CROPS[before[i]].kind == "annual"
            if draws[i] < DIVIDED_CHANCE and polygon.area > 2e4 and is_arable:
                pieces = _cut_across(polygon)
            for n, piece in enumerate(pieces):
                crop = now[i] if n == 0 else now[(i * 7 + year) % len(now)]
                if n and CROPS[crop].kind != "annual":
                    crop = now[i]
                rows.append((str(self.region[i]), i, int(crop), int(before[i]), piece))
        order = rng.permutation(len(rows))
        rank = np.empty(len(rows), dtype=int)
        rank[order] = np.arange(len(rows))
        utm = gpd.GeoSeries([row[4] for row in rows])
        return gpd.GeoDataFrame(
            {
                "parcel_id": [
                    f"{REGIONS[row[0]].prefix}{year % 100:02d}-{rank[n] + 1:06d}" for n, row in enumerate(rows)
                ],
                "region": [row[0] for row in rows],
                "crop_key": [CROPS[row[2]].key for row in rows],
                "previous_key": [CROPS[row[3]].key for row in rows],
                "field": [row[1] for row in rows],
            },
            geometry=_to_lonlat(utm, [row[0] for row in rows]),
            crs="EPSG:4326",
        )


def build_landscape(seed: int, n_parcels: int, regions: tuple[str, ...], last_year: int) -> Landscape:
    """Return a landscape of `n_parcels` fields, spread evenly over the regions.

    Raises:
        ValueError: a region is unknown, or there are fewer than 20 fields a region, or last_year is before FIRST_YEAR.
    """
    unknown = [key for key in regions if key not in REGIONS]
    if unknown or not regions:
        raise ValueError(f"unknown region {unknown}: choose among {sorted(REGIONS)}")
    if n_parcels < 20 * len(regions):
        raise ValueError(f"{n_parcels} parcels are too few for {len(regions)} regions: use at least 20 each")
    if last_year <= FIRST_YEAR:
        raise ValueError(f"last_year must be after {FIRST_YEAR}, got {last_year}")
    polygons: list[Polygon] = []
    names: list[str] = []
    crops: list[IntArray] = []
    for r, key in enumerate(regions):
        n = n_parcels // len(regions) + (r < n_parcels % len(regions))
        fields = _fields(REGIONS[key], n, stream(seed, "fields", key))
        polygons += fields
        names += [key] * n
        crops.append(_rotation(REGIONS[key], fields, last_year - FIRST_YEAR + 1, stream(seed, "rotation", key)))
    return Landscape(seed, tuple(polygons), np.array(names), np.concatenate(crops))


def _fields(region: Region, n: int, rng: np.random.Generator) -> list[Polygon]:
    to_utm = Transformer.from_crs(4326, region.epsg, always_xy=True)
    east, north = to_utm.transform(region.lon, region.lat)
    half_km = 8.0 * math.sqrt(max(n, 100) / 200)  # 200 fields in 16 km x 16 km
    spacing_m = 1250.0  # a block's diagonal is at most 1.2 km, so blocks never touch
    ticks = np.arange(-half_km * 1000, half_km * 1000, spacing_m)
    nodes = np.array([(x, y) for x in ticks for y in ticks])
    fields: list[Polygon] = []
    for x, y in nodes[rng.permutation(len(nodes))]:
        angle = math.degrees(0.3 * math.sin(x / 9000) + 0.4 * math.cos(y / 7000)) + rng.normal(0, 8)
        width, height = rng.uniform(500, 850), rng.uniform(450, 800)
        for piece in _cut(box(-width / 2, -height / 2, width / 2, height / 2), region.field_ha, rng):
            field = affinity.rotate(_bend(piece, rng), angle, origin=(0, 0))
            fields.append(affinity.translate(field, east + x, north + y))
        if len(fields) >= n:
            return fields[:n]
    raise ValueError(f"{n} fields do not fit into region {region.key}")


def _cut(piece: Polygon, median_ha: float, rng: np.random.Generator) -> list[Polygon]:
    """Cut across the longer side until every piece is as small as a log-normal draw."""
    target_ha = float(np.clip(median_ha * math.exp(rng.normal(0, AREA_SIGMA)), *AREA_LIMITS_HA))
    x0, y0, x1, y1 = piece.bounds
    if piece.area / 1e4 <= 1.35 * target_ha or min(x1 - x0, y1 - y0) < 12:
        return [piece]
    is_wide = x1 - x0 > y1 - y0
    long = max(x1 - x0, y1 - y0)
    at = rng.uniform(5, 12) / long if rng.random() < STRIP_CHANCE else rng.uniform(0.3, 0.7)
    if is_wide:
        parts = box(x0, y0, x0 + at * (x1 - x0), y1), box(x0 + at * (x1 - x0), y0, x1, y1)
    else:
        parts = box(x0, y0, x1, y0 + at * (y1 - y0)), box(x0, y0 + at * (y1 - y0), x1, y1)
    return [leaf for part in parts for leaf in _cut(part, median_ha, rng)]


def _bend(piece: Polygon, rng: np.random.Generator) -> Polygon:
    """Take off half a ditch or track on each side, then move the corners a little: fields are not rectangles."""
    x0, y0, x1, y1 = piece.bounds
    gap = min(rng.uniform(1.0, 3.5), 0.2 * min(x1 - x0, y1 - y0))
    ring = np.array([(x0 + gap, y0 + gap), (x1 - gap, y0 + gap), (x1 - gap, y1 - gap), (x0 + gap, y1 - gap)])
    corners = ring + rng.normal(0, 0.25 * gap, ring.shape)
    middle = (corners + np.roll(corners, -1, axis=0)) / 2 + rng.normal(0, 0.15 * gap, ring.shape)
    return Polygon(np.stack([corners, middle], axis=1).reshape(-1, 2))


def _cut_across(polygon: Polygon) -> list[Polygon]:
    """Return the field in two halves, cut across its longer side."""
    corners = shapely.get_coordinates(polygon.minimum_rotated_rectangle)
    sides = np.linalg.norm(np.diff(corners[:3], axis=0), axis=1)
    direction = np.diff(corners[:3], axis=0)[int(np.argmin(sides))] / max(float(sides.min()), 1e-9)
    middle = np.array([polygon.centroid.x, polygon.centroid.y])
    knife = LineString([middle - 2000 * direction, middle + 2000 * direction])
    pieces: list[BaseGeometry] = list(split(polygon, knife).geoms)
    return [piece for piece in pieces if isinstance(piece, Polygon)]


def _rotation(region: Region, fields: list[Polygon], years: int, rng: np.random.Generator) -> IntArray:
    """Return crop indices (F, Y): drawn by clumped shares, then a Markov chain whose stationary shares are the region's."""
    keys = list(region.shares)
    share = np.array([region.shares[key] for key in keys])
    stay = np.array([PERSISTENCE.get(key, 0.0) for key in keys])
    centre = np.array([(f.centroid.x, f.centroid.y) for f in fields])
    clumps = np.stack([smooth_field(centre, CLUMP_M, rng) for _ in keys], axis=1)

    def draw(weight: FloatArray) -> IntArray:
        score = np.log(np.maximum(weight, 1e-12)) + CLUMP_WEIGHT * clumps + rng.gumbel(size=clumps.shape)
        choice: IntArray = np.argmax(score, axis=1)
        return choice

    crop = draw(np.broadcast_to(share, clumps.shape))
    history = [crop]
    # A crop that persists needs fewer newcomers: inflow = share * (1 - stay); not twice the same crop otherwise.
    inflow = share * (1 - stay)
    for _ in range(years - 1):
        weight = np.broadcast_to(inflow, clumps.shape).copy()
        weight[np.arange(len(crop)), crop] = 0.0
        crop = np.where(rng.random(len(crop)) < stay[crop], crop, draw(weight))
        history.append(crop)
    lookup = np.array([INDEX[key] for key in keys])
    crops: IntArray = lookup[np.stack(history, axis=1)]
    return crops


def _to_lonlat(utm: gpd.GeoSeries, region: list[str]) -> gpd.GeoSeries:
    out = pd.Series([None] * len(utm), dtype=object)
    names = np.array(region)
    for key in dict.fromkeys(region):
        here = np.flatnonzero(names == key)
        lonlat = gpd.GeoSeries(utm.iloc[here].to_numpy(), crs=REGIONS[key].epsg).to_crs(4326)
        for i, polygon in zip(here, shapely.set_precision(lonlat.to_numpy(), 1e-8), strict=True):
            out.iloc[int(i)] = polygon
    return gpd.GeoSeries(out.to_list(), crs=4326)


def declared_file(parcels: gpd.GeoDataFrame, declared: list[str]) -> gpd.GeoDataFrame:
    """Return the parcels as a paying agency's file shows them.

    Columns: parcel_id, region, crop_code (the agency's own), crop_name, hcat_code, geometry (EPSG:4326).
    """
    crops = [CROPS[INDEX[key]] for key in declared]
    return gpd.GeoDataFrame(
        {
            "parcel_id": parcels["parcel_id"].to_list(),
            "region": parcels["region"].to_list(),
            "crop_code": [c.agency_code[r] for c, r in zip(crops, parcels["region"], strict=True)],
            "crop_name": [c.name for c in crops],
            "hcat_code": [c.hcat_code for c in crops],
        },
        geometry=parcels.geometry.to_list(),
        crs="EPSG:4326",
    )
