"""Declared parcels beside drawn fields: how many altered declarations are found, and how many that are found are right.

python -m research.bench.boundaries SEED ... [--near 150] [--json]

Of a simulated region's parcels, 8 % pairs of neighbours of two crops are declared as one, of 8 % pairs the edge is declared 30 m off, and
8 % are declared 30 m short where nobody lies beside them. Fields are drawn by the watershed from the scenes of the season, as `delineate`
does; and as they truly lie ("true"), which leaves what geometry alone cannot tell. A parcel counts once, as the kind that is found on it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import shapely
import typer
from numpy.typing import NDArray
from shapely import affinity

from ingest.delineation.segmenting import by_watershed
from models.segmentation.boundaries import DrawnFields, Kind, Outlines, compare
from models.segmentation.delineation import delineate
from research.bench.delineate import Json, simulated_scenes

SHARE: Final = 0.08
"""Of the parcels: so many of each alteration (chosen: some hundreds of altered declarations in a few seasons)."""
MOVED_M: Final = 30.0
GAP_M: Final = 6.0
"""Half of the widest ditch between two simulated fields, rounded up: they are declared together with it."""
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Declared:
    """Declarations, some of which are altered."""

    outline: Outlines
    truth: list[Kind]


def altered(fields: Outlines, crop: NDArray[np.str_], seed: int) -> Declared:
    """Return fields (F,) as they are declared."""
    chance, n = np.random.default_rng(seed), round(SHARE * len(fields))
    outline: list[Any] = []
    truth: list[Kind] = []
    used: set[int] = set()
    tree = shapely.STRtree(fields)
    together = edges = 0
    pairs = [(i, j) for i, j in zip(*tree.query(fields, "dwithin", 2 * GAP_M).tolist(), strict=True) if i < j]
    for i, j in chance.permutation(pairs).tolist():
        one, other = fields[i], fields[j]
        if {i, j} & used or shapely.area(_near(one, other)) < 60 * 8:  # square metres along an edge of 60 m
            continue
        if together < n and together <= edges:
            small, large = sorted((one.area, other.area))
            if crop[i] != crop[j] and small > max(5000, 0.25 * large):
                outline.append(_closed(one, other))
                together, truth, used = together + 1, [*truth, "farmed_apart"], used | {i, j}
        elif edges < n:
            reach = one.buffer(MOVED_M + GAP_M)
            strip, rest = other.intersection(reach), other.difference(reach)
            if one.area > 1e4 and strip.area > 2500 and rest.area > 0.5 * other.area and rest.geom_type == "Polygon":
                outline += [_closed(one, strip).difference(rest), rest]
                edges, truth, used = edges + 1, [*truth, "moved", "moved"], used | {i, j}
    short = 0
    for i in chance.permutation(len(fields)).tolist():
        if short < n and i not in used and (rest := _short(fields, tree, i, chance)) is not None:
            outline.append(rest)
            short, truth, used = short + 1, [*truth, "moved"], used | {i}
    kept = [nr for nr in range(len(fields)) if nr not in used]
    return Declared(np.array([*outline, *fields[kept]], object), [*truth, *["as_declared" for _ in kept]])  # type: ignore[list-item]


def _near(one: Any, other: Any) -> Any:
    return one.buffer(GAP_M).intersection(other.buffer(GAP_M))


def _closed(one: Any, other: Any) -> Any:
    return shapely.union_all([one.buffer(GAP_M), other.buffer(GAP_M)]).buffer(-GAP_M)


def _short(fields: Outlines, tree: shapely.STRtree, nr: int, chance: np.random.Generator) -> Any:
    """Return a field without a strip on a side where hardly anybody lies beside it, None where it has no such side."""
    own = fields[nr]
    for angle in chance.permutation(8) * np.pi / 4:
        rest = own.intersection(affinity.translate(own, MOVED_M * np.cos(angle), MOVED_M * np.sin(angle)))
        strip = own.difference(rest)
        wide = shapely.get_parts(strip.buffer(-10).buffer(10))
        if rest.geom_type != "Polygon" or rest.area < 0.5 * own.area or shapely.area(wide).max(initial=0) < 2800:
            continue
        ring = strip.buffer(25).difference(own)
        beside = [one for one in tree.query(ring).tolist() if one != nr]
        if shapely.union_all(fields[beside]).intersection(ring).area <= 0.35 * ring.area:
            return rest
    return None


def drawn(seed: int, near: int, scenes: int) -> tuple[DrawnFields, Outlines, Outlines, NDArray[np.str_]]:
    """Return fields that a watershed draws of a season, the true ones around them, those that are altered, and the crops of these."""
    with simulated_scenes(seed, 2 * near + 100, near, scenes) as (own, ids, read):
        grid = read.grid
        found = list(delineate(grid.height, grid.width, by_watershed(read)))
    a, _, left, _, e, top = grid.transform
    outline = np.concatenate([one.geometry for one in found])
    sure = np.concatenate([one.scores for one in found]).max(1)
    is_near = own["parcel_id"].isin(ids).to_numpy()
    geometry = np.array(own.geometry.to_list(), object)
    fields = DrawnFields(shapely.transform(outline, lambda xy: xy * (a, e) + (left, top)), sure, [None] * len(outline))
    return fields, geometry[~is_near], geometry[is_near], own["crop_code"].to_numpy()[is_near]


def scored(counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Return of each kind how many are found, how many of these are right, and precision and recall."""
    scores: dict[str, Any] = {}
    for kind in ("farmed_apart", "moved"):
        right = counts[kind, kind]
        found = sum(n for (_, said), n in counts.items() if said == kind)
        true = sum(n for (one, _), n in counts.items() if one == kind)
        scores[kind] = {
            "true": true,
            "found": found,
            "right": right,
            "precision": right / max(found, 1),
            "recall": right / max(true, 1),
        }
    untouched = {said: n for (one, said), n in counts.items() if one == "as_declared"}
    return scores | {
        "as_declared": untouched,
        "inconclusive": sum(n for (_, said), n in counts.items() if said == "inconclusive"),
    }


@app.command()
def main(
    seeds: list[int],
    near: Annotated[int, typer.Option(help="Parcels with imagery.")] = 150,
    scenes: int = 25,
    as_json: Json = False,
) -> None:
    """Print precision and recall over seasons of some seeds."""
    counts = {"drawn": Counter[tuple[str, str]](), "true": Counter[tuple[str, str]]()}
    for seed in seeds:
        fields, around, own, crop = drawn(seed, near, scenes)
        declared = altered(own, crop, seed)
        truth = DrawnFields(
            np.concatenate([own, around]), np.ones(len(own) + len(around)), [None] * (len(own) + len(around))
        )
        parcels = np.concatenate([declared.outline, around])
        for name, some in (("drawn", fields), ("true", truth)):
            found = compare(parcels, some, of=np.arange(len(declared.outline)))
            counts[name].update((one, said.kind) for one, said in zip(declared.truth, found, strict=True))
    scores = {name: scored(one) for name, one in counts.items()}
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for name, score in scores.items():
        for kind, what in score.items():
            typer.echo(f"{name:<8}{kind:<16}{what}")


if __name__ == "__main__":
    app()
