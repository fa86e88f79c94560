"""Cutting a scene for all parcels on it: whose they are, what is emitted of each, and as which revision.

parcels on the grid ── home in another tile ──► skipped: other_tile
        │
        ▼  cut from this product
emitted by another part of the pass, or cut by an edge of this one ──► cut from all parts together
        │                                                             └── nothing new: skipped: other_part
        ▼
rows: revision 0, or the scene's own where the parcel was emitted in this pass before; withdrawn where an older
processing emitted what this one sees as cloud
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from db import scene_passes, scenes
from db.connect import Engine
from db.scene_passes import ParcelToCut, ScenePass
from db.scenes import Counts, Sent
from ingest.errors import IngestError
from ingest.imagery.cut import OUTCOMES, Extraction, extract, outcomes, table_of
from ingest.imagery.errors import SceneError
from ingest.imagery.index import ParcelIndex, build, load_or_build
from ingest.imagery.merge import covering, extract_merged, is_stored_alike
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.access import unsigned
from ingest.scenes.begin import Begun
from ingest.scenes.cut_rows import digest_of, is_equal, parcels_of, same_rows, stored_names, with_column
from ingest.scenes.home_tiles import home_of, outline
from ingest.scenes.opening import Opened

_EMITTED: Final = 0
_CLOUD: Final = OUTCOMES.index("cloud")
_OTHER_TILE, _OTHER_PART, _WITHDRAWN = range(len(OUTCOMES), len(OUTCOMES) + 3)
_REASONS: Final = (*OUTCOMES, "other_tile", "other_part")
_GONE: Final = tuple(OUTCOMES.index(reason) for reason in ("outside", "no_data", "cloud"))
"""A parcel of which a scene emitted something else before is withdrawn."""


class StoreBehind(IngestError):
    """The store does not have yet what another part of the pass emitted, and that part cannot be read: try again later."""


@dataclass(frozen=True, slots=True)
class CutScene:
    """What a scene emits, and what became of every parcel on it."""

    table: pa.Table | None = field(repr=False)
    counts: Counts
    note: str | None = None
    """What a person should know."""
    sent: Sent | None = None
    """What is sent with the table, to be kept before it is sent."""
    parcel_keys: Sequence[int] = field(default=(), repr=False)
    """Whose each row of the table is."""

    @property
    def is_empty(self) -> bool:
        """Return whether there was no parcel to observe."""
        return self.table is None


def cut(
    engine: Engine, opened: Opened, begun: Begun, settings: ImagerySettings, index_folder: Path | None, margin_days: int
) -> CutScene:
    """Cut a scene.

    Args:
        engine: the database: parcels, and what is known of this pass.
        opened: the scene.
        begun: what was decided when it was begun, and the other parts of the same tile or datatake.
        settings: how to cut.
        index_folder: where indexes are kept.
        margin_days: how far outside of its season an observation may lie.

    Raises SceneError, StoreBehind.
    """
    place = begun.place
    with engine.begin() as connection:
        found = scene_passes.parcels_on(
            connection, shapely.to_wkb(outline(opened.grid)), place.observed_at, margin_days
        )
    if not found:
        return CutScene(None, Counts(0, 0, 0, {}), "no parcel of any season touches its grid; import them, then retry")
    scene = replace(
        opened.scene,
        observed_at=place.observed_at,
        revision=place.revision,
        available_at=max(opened.scene.available_at, place.observed_at),
    )
    elsewhere: Counter[str] = Counter()
    if IMAGERY[scene.sensor].is_tiled and scene.tile in dict(place.tiles):
        home = home_of([one.wkb for one in found], scene.tile, place.tiles).tolist()
        elsewhere.update(one for one in home if one != scene.tile)
        found = [one for one, its in zip(found, home, strict=True) if its == scene.tile]
    return _Cut(engine, replace(opened, scene=scene), begun, settings, found, elsewhere).result(index_folder)


class _Cut:
    """One scene being cut for P parcels that are at home on it."""

    def __init__(
        self,
        engine: Engine,
        opened: Opened,
        begun: Begun,
        settings: ImagerySettings,
        found: Sequence[ParcelToCut],
        elsewhere: Mapping[str, int],
    ) -> None:
        self._elsewhere = elsewhere
        self._engine, self._scene, self._grid = engine, opened.scene, opened.grid
        self._precedence, self._settings, self._found = begun.place.precedence, settings, found
        self._beside = [
            replace(one, scene=replace(one.scene, observed_at=begun.place.observed_at))
            for one in begun.beside
            if is_stored_alike(one.scene, opened.scene)
        ]
        self._parcels = parcels_of(found)
        self._sensor = IMAGERY[self._scene.sensor]
        self._buffer_m = self._sensor.inner_buffer_m(settings)
        self._note: str | None = None

    def result(self, index_folder: Path | None) -> CutScene:
        """Return the rows of all parcels, and what became of each. Raises SceneError, StoreBehind."""
        settings = self._settings
        index = load_or_build(
            self._parcels, self._grid, self._buffer_m, settings.least_pixels, settings.sample_pixels, index_folder
        )
        if not index.n_chunks:
            return self._nothing(index)
        alone = extract(self._scene, self._grid, self._parcels, index, settings)
        outcome, tables, rows = alone.outcome.astype(np.int64), [alone.table], [alone.rows]
        revision, was_emitted, by_others = self._revisions()
        if self._precedence.beside:
            merged = self._merged(alone, was_emitted, by_others)
            outcome[merged.which] = merged.outcome
            tables = [alone.table.filter(pa.array(~np.isin(alone.rows, merged.which))), merged.table]
            rows = [alone.rows[~np.isin(alone.rows, merged.which)], merged.rows]
        own, digest = self._own(), digest_of(tables)
        sent = self._sent(digest)
        is_own = np.array(
            [(one := own.get(parcel.parcel_key)) is not None and not one["is_withdrawn"] for parcel in self._found],
            np.bool_,
        )
        is_withdrawn = np.isin(outcome, _GONE) & (is_own | (sent.emitted_as > self._sent_before.emitted_as))
        if self._precedence.replaces:
            is_withdrawn |= (outcome == _CLOUD) & (was_emitted if self._precedence.is_in_store else True)
        outcome[is_withdrawn] = _WITHDRAWN
        tables.append(self._withdrawals(np.flatnonzero(is_withdrawn)))
        rows.append(np.flatnonzero(is_withdrawn))
        table = self._table(tables, np.concatenate(rows), np.maximum(revision, sent.emitted_as), outcome, own)
        keys = [self._found[row].parcel_key for row in np.sort(np.concatenate(rows)).tolist()]
        return CutScene(table, self._counts(outcome), self._note, sent, keys)

    def _pass(self) -> ScenePass:
        of = self._scene
        return ScenePass(of.scene_id, of.sensor, of.observed_at, of.relative_orbit)

    def _own(self) -> dict[int, Mapping[str, Any]]:
        """Return what the scene itself emitted of its parcels, as the store has it; what it sent last is `_sent_before`."""
        keys = [one.parcel_key for one in self._found]
        with self._engine.begin() as connection:
            self._sent_before = scenes.sent(connection, self._scene.scene_id)
            if self._sent_before.digest is None:
                return {}
            return scene_passes.own(connection, self._pass(), keys)

    def _sent(self, digest: bytes) -> Sent:
        """Return what is sent now: under a higher revision where something else may still be on its way to the store."""
        before = self._sent_before
        if before.is_in_store:
            return Sent(digest, 0, True)
        is_same = before.digest == digest
        return Sent(digest, before.emitted_as if is_same else max(before.emitted_as, self._scene.revision) + 1, False)

    def _nothing(self, index: ParcelIndex) -> CutScene:
        """Return the result where no parcel has pixels on the grid."""
        none = np.zeros(len(self._found), np.int64)
        counts = self._counts(outcomes(self._parcels, index, none, none, self._settings).astype(np.int64))
        if self._elsewhere:
            return CutScene(self._withdrawals(np.zeros(0, np.intp)), counts)
        return CutScene(None, counts, f"none of {counts.expected} parcels has enough pixels on its grid")

    def _revisions(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (P,) the revision of each parcel, whether the store has it of this pass, and that from another part."""
        precedence = self._precedence
        revision = np.zeros(len(self._found), np.int64)
        was_emitted, by_others = np.zeros((2, len(self._found)), np.bool_)
        if precedence.newest_revision is not None and (precedence.is_revision or not precedence.is_in_store):
            revision[:] = self._scene.revision
        keys = np.array([one.parcel_key for one in self._found], np.int64)
        with self._engine.begin() as connection:
            known = scene_passes.known_revisions(connection, self._pass(), keys.tolist(), precedence.replaces)
        at = np.searchsorted(keys, known["parcel_key"])
        revision[at] = np.maximum(self._scene.revision, known["revision"].astype(np.int64) + 1)
        was_emitted[at] = ~known["is_withdrawn"]
        by_others[at] = ~known["is_withdrawn"] & ~known["is_own_part"]
        return revision, was_emitted, by_others

    def _merged(self, alone: Extraction, was_emitted: NDArray[np.bool_], by_others: NDArray[np.bool_]) -> "_Merged":
        """Return parcels that other parts show too, cut from all parts together."""
        is_cut, is_seen = alone.share_seen < 1, alone.share_seen > 0
        which = np.flatnonzero(is_seen & (by_others | is_cut | (not self._precedence.is_in_store)))
        stays = np.flatnonzero(is_seen & (by_others | (was_emitted & is_cut)))
        if self._beside and len(self._beside) == len(self._precedence.beside):
            edges = shapely.union_all([outline(one.grid) for one in self._beside])
            shapely.prepare(edges)
            near = shapely.intersects(edges, shapely.from_wkb([self._found[place].wkb for place in which.tolist()]))
            which = which[near]
            try:
                return self._together(which)
            except SceneError as error:
                if error.scene_id == self._scene.scene_id:
                    raise
                return self._kept(alone, stays, str(error))
        return self._kept(alone, stays, "another part of the pass cannot be opened, or is stored otherwise")

    def _kept(self, alone: Extraction, stays: NDArray[np.intp], why: str) -> "_Merged":
        """Return the parcels cut from this part alone; what the other parts emitted stays."""
        if not self._precedence.is_in_store:
            raise StoreBehind(f"{why}; waits until the store has what {', '.join(self._precedence.beside)} emitted")
        self._note = unsigned(f"not merged with {', '.join(self._precedence.beside)}: {why}")
        return _Merged(stays, np.full(len(stays), _OTHER_PART), alone.table.slice(0, 0), np.zeros(0, np.intp))

    def _together(self, which: NDArray[np.intp]) -> "_Merged":
        parcels = parcels_of([self._found[place] for place in which.tolist()])
        settings, everything = self._settings, [*self._beside, Opened(self._scene, self._grid)]
        everything.sort(key=lambda one: (one.scene.part or one.scene.observed_at, one.scene.scene_id))
        grid = covering(self._grid, [one.grid for one in self._beside])
        index = build(parcels, grid, self._buffer_m, settings.least_pixels, settings.sample_pixels)

        def cut_from(parts: Sequence[Opened]) -> Extraction:
            return extract_merged([one.scene for one in parts], self._scene, grid, parcels, index, settings)

        after = cut_from(everything)
        before = cut_from([one for one in everything if one.scene is not self._scene])
        outcome = after.outcome.astype(np.int64)
        is_new = np.ones(len(which), np.bool_)
        if not self._precedence.replaces:  # else what was emitted may hold an older processing of this part
            is_new = ~same_rows(before, after)
            outcome[(before.outcome == _EMITTED) & ((after.outcome != _EMITTED) | ~is_new)] = _OTHER_PART
        table = after.table.filter(pa.array(is_new[after.rows]))
        return _Merged(which, outcome, table, which[after.rows[is_new[after.rows]]])

    def _withdrawals(self, rows: NDArray[np.intp]) -> pa.Table:
        return table_of(self._scene, self._parcels, rows, {self._sensor.counted: np.zeros(len(rows), np.int64)})

    def _table(
        self,
        tables: Sequence[pa.Table],
        rows: NDArray[np.intp],
        revision: NDArray[np.int64],
        outcome: NDArray[np.int64],
        own: Mapping[int, Mapping[str, Any]],
    ) -> pa.Table:
        """Return rows in the parcels' order, each under its own parcel's collection, season and revision.

        What the store has with the same values is repeated under its revision, with other values as the next one.
        """
        order = np.argsort(rows, kind="stable")
        table, rows = pa.concat_tables(tables).take(pa.array(order)).combine_chunks(), rows[order]
        columns: Mapping[str, pa.Array] = {
            "collection": pa.array([self._found[row].collection for row in rows.tolist()], pa.string()),
            "season": pa.array([self._found[row].season for row in rows.tolist()], pa.string()),
            "is_withdrawn": pa.array(outcome[rows] == _WITHDRAWN),
        }
        for name, values in columns.items():
            table = with_column(table, name, values)
        revision, names = revision[rows], stored_names(table, self._scene.sensor)
        for place, row in enumerate(rows.tolist() if own else ()):
            if (stored := own.get(self._found[row].parcel_key)) is None:
                continue
            is_same = all(is_equal(table[name][place].as_py(), stored[column]) for name, column in names)
            is_repeated = is_same and revision[place] <= stored["revision"]
            revision[place] = stored["revision"] if is_repeated else max(stored["revision"] + 1, revision[place])
        return with_column(table, "revision", pa.array(revision, pa.int16()))

    def _counts(self, outcome: NDArray[np.int64]) -> Counts:
        n_emitted, n_withdrawn = int((outcome == _EMITTED).sum()), int((outcome == _WITHDRAWN).sum())
        skipped = Counter(_REASONS[one] for one in outcome.tolist() if one not in (_EMITTED, _WITHDRAWN))
        if n_elsewhere := sum(self._elsewhere.values()):
            skipped[_REASONS[_OTHER_TILE]] = n_elsewhere
        return Counts(len(outcome) + n_elsewhere, n_emitted + n_withdrawn, n_withdrawn, dict(skipped), self._elsewhere)


@dataclass(frozen=True, slots=True)
class _Merged:
    """What several parts together show: `which` parcels, what became of each, and the rows of some."""

    which: NDArray[np.intp]
    outcome: NDArray[np.int64]
    table: pa.Table
    rows: NDArray[np.intp]
