"""Fields of a whole tile from a segmenter of windows, a stripe of rows in memory at a time.

    soft maps    p = sum_w a_w p_w / sum_w a_w, a = sin^2 ramps within the overlap; fields: connected pixels with p above a threshold
    instances    a pixel's is that of the window on its side of the middle of the overlap; instances of two windows are one where their
                 IoU within the overlap is above a half

Chosen because: a field is where its pixels are, whatever window shows them; an IoU above a half has one partner in each overlap. Rows of
        windows are left behind once all that lies in them is drawn (models.segmentation.outlines).
Shapes: a tile (H, W), windows (h, w), K scores of a field.
Units:  pixels.
Errors: ValueError for settings that do not fit, or a segmenter that answers in two forms or another size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from models.segmentation.outlines import Drawn, outlines, whole
from models.segmentation.scoring import MATCH

Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]


class Window(NamedTuple):
    """A part of the tile."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Instances:
    """Fields of a window."""

    labels: NDArray[np.integer[Any]]
    """(h, w) 1 to N, 0 where there is none."""
    scores: Floats
    """(N, K) of each field, 0 to 1."""


@dataclass(frozen=True)
class Soft:
    """Maps of a window."""

    interior: Floats
    """(h, w) 0 to 1: likely within a field, not on its boundary."""
    scores: Floats
    """(K, h, w), 0 to 1."""


Segmenter = Callable[[Window], Instances | Soft]


@dataclass(frozen=True)
class Settings:
    """How a tile is cut into windows and its fields are drawn."""

    side: int = 256
    overlap: int = 64
    """Pixels that neighbouring windows share (chosen: a field of 40 ha; larger ones match by what lies within it)."""
    threshold: float = 0.5
    """Of soft maps."""
    stripe: int = 512
    """Rows that are drawn at a time: an outline keeps its corner of a pixel where it crosses to the next."""
    tolerance: float = 1.5
    """Corners of less than its square are cut (models.segmentation.outlines); 0: outlines follow the pixels."""
    min_pixels: float = 25.0
    """Area of the smallest field (chosen: a quarter of a hectare at 10 m)."""

    def __post_init__(self) -> None:
        if not 2 <= self.overlap <= self.side // 2:
            raise ValueError(f"windows of {self.side} overlap by 2 to {self.side // 2} pixels, not {self.overlap}")
        if self.stripe < 1 or self.tolerance < 0 or self.min_pixels < 0:
            raise ValueError("a stripe has at least 1 row; tolerance and least area are at least 0")


@dataclass(frozen=True)
class Fields:
    """Fields that are whole."""

    geometry: NDArray[np.object_]
    """(n,) Polygon or MultiPolygon, x columns and y rows from the tile's upper left corner."""
    first: Ids
    """(n, 2) row and column of the first pixel: no other field has it, so it names the field."""
    scores: NDArray[np.float64]
    """(n, K) mean over the pixels."""


def delineate(height: int, width: int, segmenter: Segmenter, settings: Settings | None = None) -> Iterator[Fields]:
    """Yield the fields of a tile as they become whole, from north to south; no two of them overlap.

    Raises:
        ValueError: the segmenter answers in two forms, or for another size.
    """
    settings = settings or Settings()
    store, pending, top = _Store(), list[Ids](), 0
    drawn = dict[int, list[Drawn]]()
    rows = _label_rows(height, width, segmenter, settings, store)
    for labels, held in rows:
        pending.append(labels)
        while (ready := sum(map(len, pending))) >= settings.stripe or top + ready == height:
            stripe, rest = np.split(np.concatenate(pending), [settings.stripe])
            pending = [rest]
            roots = store.folded()
            drawn = _joined(drawn, roots)
            for label, parts in outlines(roots[stripe], top, settings.tolerance).items():
                drawn.setdefault(label, []).extend(parts)
            top += len(stripe)
            is_open = np.zeros(len(roots), bool)
            if top < height:
                for ids in (rest, *held):
                    is_open[roots[ids]] = True
            if (fields := _closed(drawn, is_open, store, settings)) is not None:
                yield fields
            moved = store.compacted([rest, *held, np.fromiter(drawn, np.int64)])
            pending = [moved[rest]]
            for ids in held:
                ids[...] = moved[ids]
            drawn = {int(moved[label]): parts for label, parts in drawn.items()}
            if top == height:
                return


def spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Return begin and end of the windows along one side of a tile; each but the first begins `overlap` before the last one's end."""
    return [(at, min(at + side, length)) for at in range(0, max(length - overlap, 1), side - overlap)]


def _cuts(ends: Sequence[tuple[int, int]]) -> list[int]:
    """Return where one window's own pixels end and the next one's begin, with the tile's sides."""
    between = [(b[0] + a[1]) // 2 for a, b in pairwise(ends)]
    return [0, *between, ends[-1][1]]


def _label_rows(
    height: int, width: int, segmenter: Segmenter, settings: Settings, store: _Store
) -> Iterator[tuple[Ids, list[Ids]]]:
    """Yield the ids (h, W) of the next rows, and the ids beyond these that a later row may unite (written to when ids are renumbered)."""
    across = spans(width, settings.side, settings.overlap)
    down = spans(height, settings.side, settings.overlap)
    rows: _InstanceRows | _SoftRows | None = None
    for number, (top, bottom) in enumerate(down):
        for column, (left, right) in enumerate(across):
            found = segmenter(Window(top, left, bottom - top, right - left))
            made = found.labels if isinstance(found, Instances) else found.interior
            if made.shape != (bottom - top, right - left):
                raise ValueError(f"a window of {(bottom - top, right - left)} was segmented as {made.shape}")
            if rows is None:
                rows = (_InstanceRows if isinstance(found, Instances) else _SoftRows)(down, across, settings, store)
            rows.add(number, column, found)
        assert rows is not None
        yield rows.finished(number)


class _InstanceRows:
    """Instances of windows, united with those of the windows to the left and above."""

    def __init__(self, down: Sequence[Any], across: Sequence[Any], _: Settings, store: _Store) -> None:
        self._down, self._across, self._store = down, across, store
        self._cut_down, self._cut_across = _cuts(down), _cuts(across)
        self._above: list[Ids] = []
        self._row: list[Ids] = []

    def add(self, number: int, column: int, found: Instances | Soft) -> None:
        if not isinstance(found, Instances):
            raise ValueError("a segmenter gives instances or soft maps, not both")
        (top, _), (left, _) = self._down[number], self._across[column]
        own = (
            slice(self._cut_down[number] - top, self._cut_down[number + 1] - top),
            slice(self._cut_across[column] - left, self._cut_across[column + 1] - left),
        )
        area = np.bincount(found.labels[own].ravel(), minlength=len(found.scores) + 1)[1:]
        ids = self._store.added(area, area[:, None] * found.scores)[found.labels]
        if column:
            self._unite(self._row[-1], self._down[number], self._across[column - 1], ids, number, column)
        for near in range(max(column - 1, 0), min(column + 2, len(self._above))):
            held = self._above[near]
            end = self._down[number - 1][1]
            self._unite(held, (end - len(held), end), self._across[near], ids, number, column)
        self._row.append(ids)

    def finished(self, number: int) -> tuple[Ids, list[Ids]]:
        top, row = self._down[number][0], self._row
        down = slice(self._cut_down[number] - top, self._cut_down[number + 1] - top)
        labels = np.concatenate([
            ids[down, self._cut_across[at] - self._across[at][0] : self._cut_across[at + 1] - self._across[at][0]]
            for at, ids in enumerate(row)
        ], axis=1)  # fmt: skip
        is_last = number + 1 == len(self._down)
        below = self._down[number][1] if is_last else self._down[number + 1][0]
        self._above, self._row = [ids[below - top :].copy() for ids in row], []
        return labels, self._above

    def _unite(self, a: Ids, a_down: Any, a_across: Any, b: Ids, number: int, column: int) -> None:
        """Unite ids of two windows whose IoU is above a half within what both show."""
        (top, bottom), (left, right) = (
            (max(one[0], other[0]), min(one[1], other[1]))
            for one, other in ((a_down, self._down[number]), (a_across, self._across[column]))
        )
        if top >= bottom or left >= right:
            return
        (at, to), (b_at, b_to) = (a_down[0], a_across[0]), (self._down[number][0], self._across[column][0])
        ours = a[top - at : bottom - at, left - to : right - to]
        theirs = b[top - b_at : bottom - b_at, left - b_to : right - b_to]
        n = len(self._store)
        pair, shared = np.unique(ours * n + theirs, return_counts=True)
        one, other = np.divmod(pair, n)
        of_one, of_other = _sums(one, shared), _sums(other, shared)
        is_same = (one > 0) & (other > 0) & (shared > MATCH * (of_one + of_other - shared))
        self._store.unite(one[is_same], other[is_same])


def _sums(key: Ids, values: Ids) -> Ids:
    """Return (n,) the sum of the values with the same key."""
    _, place = np.unique(key, return_inverse=True)
    return np.bincount(place, values)[place].astype(np.int64)


class _SoftRows:
    """Soft maps of windows, blended; connected pixels above the threshold are a field."""

    def __init__(self, down: Sequence[Any], across: Sequence[Any], settings: Settings, store: _Store) -> None:
        self._down, self._across, self._settings, self._store = down, across, settings, store
        ramp = np.sin(np.pi / 2 * (np.arange(settings.overlap) + 0.5) / settings.overlap) ** 2
        self._taper = np.concatenate([ramp, np.ones(settings.side - 2 * settings.overlap), ramp[::-1]])
        self._sum: Any = None
        self._last = np.zeros((1, across[-1][1]), np.int64)

    def add(self, number: int, column: int, found: Instances | Soft) -> None:
        if isinstance(found, Instances):
            raise ValueError("a segmenter gives instances or soft maps, not both")
        (top, bottom), (left, right) = self._down[number], self._across[column]
        if self._sum is None:  # maps, then weights
            self._sum = np.zeros((len(found.scores) + 2, self._settings.side, self._across[-1][1]), np.float32)
        weight = self._taper[: bottom - top, None] * self._taper[None, : right - left]
        into = self._sum[:, : bottom - top, left:right]
        into[0] += weight * found.interior
        into[1:-1] += weight * found.scores
        into[-1] += weight

    def finished(self, number: int) -> tuple[Ids, list[Ids]]:
        (top, bottom), is_last = self._down[number], number + 1 == len(self._down)
        rows = bottom - top if is_last else self._down[number + 1][0] - top
        maps = self._sum[:-1, :rows] / self._sum[-1, :rows]
        self._sum = np.concatenate([self._sum[:, rows:], np.zeros_like(self._sum[:, :rows])], axis=1)
        labels, n = ndimage.label(maps[0] > self._settings.threshold)
        flat = labels.ravel()
        area = np.bincount(flat, minlength=n + 1)[1:]
        scores = np.stack([np.bincount(flat, one.ravel(), n + 1)[1:] for one in maps[1:]], axis=1)
        ids = self._store.added(area, scores.astype(np.float64))[labels]
        meets = (self._last[0] > 0) & (ids[0] > 0)
        self._store.unite(self._last[0][meets], ids[0][meets])
        self._last = ids[-1:].copy()
        return ids, [self._last]


class _Store:
    """Ids of fields that are not whole yet: which are one, how large, their scores. 0 is no field."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._area = np.zeros(1, np.int64)
        self._scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self._parent)

    def added(self, area: NDArray[np.integer[Any]], scores: Floats) -> Ids:
        """Return (N + 1,) the ids of labels 0 to N; areas (N,) and sums of scores (N, K)."""
        begin = len(self)
        new = np.arange(begin, begin + len(area))
        self._parent = np.concatenate([self._parent, new])
        self._area = np.concatenate([self._area, area])
        before = np.zeros((1, scores.shape[1])) if self._scores is None else self._scores
        self._scores = np.concatenate([before, scores])
        return np.concatenate([[0], new])

    def unite(self, one: Ids, other: Ids) -> None:
        for a, b in set(zip(one.tolist(), other.tolist(), strict=True)):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def _root(self, one: int) -> int:
        while (up := int(self._parent[one])) != one:
            self._parent[one] = self._parent[up]
            one = up
        return one

    def folded(self) -> Ids:
        """Return (n,) the root of each id; areas and scores are then those of roots."""
        roots = self._parent
        while (up := roots[roots]).tolist() != roots.tolist():
            roots = up
        self._parent = roots.copy()
        assert self._scores is not None
        scores = np.zeros_like(self._scores)
        np.add.at(scores, roots, self._scores)
        self._scores = scores
        self._area = np.bincount(roots, self._area, len(roots)).astype(np.int64)
        return roots

    def means(self, root: Sequence[int]) -> NDArray[np.float64]:
        """Return (n, K) the mean scores of roots."""
        assert self._scores is not None
        of: NDArray[np.float64] = self._scores[root] / np.maximum(self._area[root], 1)[:, None]
        return of

    def compacted(self, used: Sequence[Ids]) -> Ids:
        """Forget all ids but those that are used, and their roots; return (n,) the new id of each."""
        is_used = np.zeros(len(self), bool)
        is_used[0] = True
        for ids in used:
            is_used[ids] = True
        is_used[self._parent[is_used]] = True
        moved = np.cumsum(is_used) - 1
        assert self._scores is not None
        self._parent = moved[self._parent[is_used]]
        self._area, self._scores = self._area[is_used], self._scores[is_used]
        return moved


def _joined(drawn: dict[int, list[Drawn]], roots: Ids) -> dict[int, list[Drawn]]:
    joined = dict[int, list[Drawn]]()
    for label, parts in drawn.items():
        joined.setdefault(int(roots[label]), []).extend(parts)
    return joined


def _closed(
    drawn: dict[int, list[Drawn]], is_open: NDArray[np.bool_], store: _Store, settings: Settings
) -> Fields | None:
    """Take the fields that no later row can enlarge out of `drawn`; None where none is large enough."""
    made = [(label, whole(drawn.pop(label), settings.min_pixels)) for label in list(drawn) if not is_open[label]]
    kept = [(label, *one) for label, one in made if one is not None]
    if not kept:
        return None
    labels, geometry, first = zip(*sorted(kept, key=lambda one: one[2]), strict=True)
    outlines_ = np.empty(len(geometry), object)
    outlines_[:] = geometry
    assert shapely.is_valid(outlines_).all()
    return Fields(outlines_, np.array(first, np.int64), store.means(list(labels)))
