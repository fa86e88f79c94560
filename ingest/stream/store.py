"""A validated batch into the database, all of it in one transaction: rows, dead letters, the monitor's work and the offsets."""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from db import dead_letters, observations, offsets, recording
from db.connect import Connection, Engine
from db.dead_letters import DeadLetter
from db.keys import collections_with_parcels, parcel_keys, seasons_named
from db.offsets import Step
from db.seasons import Season
from ingest.errors import FencedOut, ReasonCode, TooManyRejected
from ingest.stream.metrics import Counts
from ingest.stream.settings import IngestSettings
from ingest.stream.validation import Rejection, Rows, Validated

_MAX_CACHED_PARCELS = 2_000_000
"""Above this the cache starts anew: about 300 MB of keys (chosen as a fifth of a large country)."""

_DEAD_LETTERS_AT_ONCE: Final = 500
"""A rejected row becomes a dead letter of 4 kB, with pixels 80 kB: many at once would not fit into memory."""


class ParcelKeys:
    """Keys of parcels by (collection, season, source id), remembered; what is missing is asked for again each time."""

    def __init__(self) -> None:
        # Only what is stored is remembered: a key stays for good, while what is missing may be imported at any moment.
        self._seasons: dict[str, Season] = {}
        self._keys: dict[tuple[str, str], dict[str, int]] = {}

    def seasons(self, connection: Connection, names: Sequence[str]) -> Mapping[str, Season]:
        """Return seasons by name, those of `names` that are stored among them; one statement, however many names."""
        if missing := [name for name in names if name not in self._seasons]:
            self._seasons |= seasons_named(connection, missing)
        return self._seasons

    def reread(self, connection: Connection, season: Season) -> Season:
        """Return a season as it is stored now: it may have been widened since it was remembered."""
        self._seasons |= seasons_named(connection, [season.name])
        return self._seasons[season.name]

    def collections(self, connection: Connection, season: Season, names: Sequence[str]) -> set[str]:
        """Return which collections have parcels in a season; one statement, however many names."""
        known = {name for name in names if (name, season.name) in self._keys}
        missing = [name for name in names if name not in known]
        return known | (collections_with_parcels(connection, season.season_key, missing) if missing else set())

    def keys(
        self, connection: Connection, collection: str, season: Season, source_ids: Sequence[str]
    ) -> Mapping[str, int]:
        """Return keys of the parcels that are stored."""
        known = self._keys.setdefault((collection, season.name), {})
        if missing := [source_id for source_id in source_ids if source_id not in known]:
            if sum(map(len, self._keys.values())) > _MAX_CACHED_PARCELS:
                self._keys, known = {}, {}
                missing = list(source_ids)
            known |= parcel_keys(connection, collection, season.season_key, missing)
            self._keys[collection, season.name] = known
        return known


class RejectWindow:
    """How many of the last rows were bad."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._batches: deque[tuple[int, int]] = deque()

    def exceeded_by(self, n_rows: int, n_bad: int) -> bool:
        """Return whether this batch would bring the share of bad rows above the cap."""
        rows, bad = self._sums(n_rows, n_bad)
        return rows >= self._settings.reject_minimum_rows and bad > self._settings.reject_cap * rows

    def add(self, n_rows: int, n_bad: int) -> None:
        """Remember a batch that was committed."""
        self._batches.append((n_rows, n_bad))
        while (
            len(self._batches) > 1
            and sum(n for n, _ in self._batches) - self._batches[0][0] >= self._settings.reject_window_rows
        ):
            self._batches.popleft()

    def _sums(self, n_rows: int, n_bad: int) -> tuple[int, int]:
        rows, bad = n_rows, n_bad
        for batch_rows, batch_bad in reversed(self._batches):
            if rows >= self._settings.reject_window_rows:
                break
            rows, bad = rows + batch_rows, bad + batch_bad
        return rows, bad


class Store:
    """Writes batches; holds what is remembered from one to the next."""

    def __init__(self, settings: IngestSettings, publish: Callable[[Sequence[DeadLetter]], None]) -> None:
        """Take `publish`, which puts dead letters on their topic and returns when the broker has them."""
        self._settings, self._publish = settings, publish
        self._parcels, self._window = ParcelKeys(), RejectWindow(settings)

    def write(
        self, engine: Engine, validated: Validated, streams: Mapping[str, str], steps: Sequence[Step], now: datetime
    ) -> Counts:
        """Commit a batch, or nothing of it.

        Args:
            engine: the database.
            validated: decoded rows and rejections.
            streams: the generation of each topic.
            steps: how far the batch brings each partition.
            now: the consumer's clock.

        Raises FencedOut, TooManyRejected, DeliveryFailed; the database's own errors pass through.
        """
        counts: Counts = Counter({"rows": validated.n_rows, "transactions": 1})
        rejections = list(validated.rejections)
        with engine.begin() as connection:
            # Rows and offsets commit together, so a row is stored exactly once whatever dies in between. Offsets come
            # first: their row locks make a second consumer of the same batch wait here, and then see it was fenced out.
            if not offsets.advance(connection, steps, now):
                raise FencedOut("another consumer has moved the offsets of these partitions")
            recorded_at = recording.begin(connection, now)
            for rows in validated.rows:
                stored, rejected = self._write_rows(connection, rows, recorded_at)
                counts += stored
                rejections += rejected
            if self._window.exceeded_by(validated.n_rows, len(rejections)):
                raise TooManyRejected(_flood(rejections, validated.n_rows, self._settings.reject_cap))
            for start in range(0, len(rejections), _DEAD_LETTERS_AT_ONCE):
                dead = [
                    _dead_letter(rejection, streams) for rejection in rejections[start : start + _DEAD_LETTERS_AT_ONCE]
                ]
                # On their topic first: should the commit fail they come again with the same keys, and none is missing.
                self._publish(dead)
                dead_letters.add(connection, dead, recorded_at)
        # Only what was committed: a batch that fails comes again, and would count twice.
        self._window.add(validated.n_rows, len(rejections))
        counts["dead_letters"] += len(rejections)
        return counts

    def _write_rows(self, connection: Connection, rows: Rows, recorded_at: datetime) -> tuple[Counts, list[Rejection]]:
        keys, rejections = self._resolve(connection, rows)
        good = rows.keep(keys >= 0)
        inserted = observations.insert(connection, rows.schema.sensor, good.table, keys[keys >= 0], recorded_at)
        rejections += [
            good.reject(
                conflict.row,
                "conflicts_with_stored",
                f"the observation is stored with other values; send revision {conflict.newest_revision + 1}",
            )
            for conflict in inserted.conflicts
        ]
        replayed = good.table.num_rows - inserted.new - len(inserted.conflicts)
        counts: Counts = Counter({"stored": inserted.new, "pending": inserted.pending, "replayed": replayed})
        return counts, rejections

    def _resolve(self, connection: Connection, rows: Rows) -> tuple[NDArray[np.int64], list[Rejection]]:
        """Return the key of each row's parcel, -1 where the row is rejected, and the rejections.

        Rows may name as many seasons and collections as there are rows: statements only for those that are stored.
        """
        keys = np.full(rows.table.num_rows, -1, np.int64)
        rejections: list[Rejection] = []
        groups = _groups(rows.table["season"], np.arange(rows.table.num_rows))
        seasons = self._parcels.seasons(connection, list(groups))
        for name, of_season in groups.items():
            season = seasons.get(name)
            if season is None:
                rejections += _all(
                    rows, of_season, "unknown_season", f"season {name!r} is not stored; import its parcels first"
                )
                continue
            of_collection = _groups(rows.table["collection"], of_season)
            stored = self._parcels.collections(connection, season, list(of_collection))
            for collection, here in of_collection.items():
                if collection in stored:
                    keys[here] = self._keys_of(
                        connection, collection, season, rows.table["parcel_id"].take(pa.array(here))
                    )
                rejections += _unknown_parcels(rows, here[keys[here] < 0], collection, name)
            rejections += self._outside(connection, rows, of_season, keys, season)
        return keys, rejections

    def _keys_of(
        self, connection: Connection, collection: str, season: Season, source_ids: pa.ChunkedArray
    ) -> NDArray[np.int64]:
        ids = source_ids.combine_chunks().dictionary_encode()
        names = ids.dictionary.to_pylist()
        known = self._parcels.keys(connection, collection, season, names)
        keys: NDArray[np.int64] = np.array([known.get(name, -1) for name in names], np.int64)[ids.indices.to_numpy()]
        return keys

    def _outside(
        self, connection: Connection, rows: Rows, here: NDArray[np.intp], keys: NDArray[np.int64], season: Season
    ) -> list[Rejection]:
        """Reject rows of known parcels that were observed outside of the season, and take their keys away."""
        is_outside = self._is_outside(rows, here, season) & (keys[here] >= 0)
        if is_outside.any():
            season = self._parcels.reread(connection, season)
            is_outside &= self._is_outside(rows, here, season)
        keys[here[is_outside]] = -1
        shown = (
            f"observed_at lies more than {self._settings.season_margin_days} days outside of season {season.name!r} "
            f"({season.starts_on} to {season.ends_on}); send it for the season it belongs to, or widen that one "
            f"(parcelwatch parcels season {season.name}), then redrive"
        )
        return _all(rows, here[is_outside], "outside_season", shown)

    def _is_outside(self, rows: Rows, here: NDArray[np.intp], season: Season) -> NDArray[np.bool_]:
        margin = timedelta(days=self._settings.season_margin_days)
        first = np.datetime64(season.starts_on - margin)
        last = np.datetime64(season.ends_on + margin + timedelta(days=1))
        observed = rows.table["observed_at"].cast(pa.timestamp("us")).to_numpy()[here]
        return np.asarray((observed < first) | (observed >= last), dtype=bool)


def _groups(column: pa.ChunkedArray, rows: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Return which of these rows have which text, in one pass over them, in the order of the texts' first rows."""
    codes = column.take(pa.array(rows)).combine_chunks().dictionary_encode()
    order = np.argsort(codes.indices.to_numpy(), kind="stable")
    starts = np.flatnonzero(np.diff(codes.indices.to_numpy()[order])) + 1
    return dict(zip(codes.dictionary.to_pylist(), np.split(rows[order], starts), strict=True)) if len(rows) else {}


def _unknown_parcels(rows: Rows, which: NDArray[np.intp], collection: str, season: str) -> list[Rejection]:
    return [
        rows.reject(
            row,
            "unknown_parcel",
            f"parcel {rows.table['parcel_id'][row].as_py()!r} is not in collection {collection!r} of season {season!r}; "
            "import it, then redrive",
        )
        for row in which.tolist()
    ]


def _all(rows: Rows, which: NDArray[np.intp], code: ReasonCode, reason: str) -> list[Rejection]:
    return [rows.reject(row, code, reason) for row in which.tolist()]


def _dead_letter(rejection: Rejection, streams: Mapping[str, str]) -> DeadLetter:
    message = rejection.message
    return DeadLetter(
        stream=streams[message.topic],
        topic=message.topic,
        partition=message.partition,
        message_offset=message.offset,
        row_in_message=rejection.row,
        reason_code=rejection.code,
        reason=rejection.reason,
        content_type=message.content_type,
        payload=rejection.payload,
        repeats=message.redriven_from,
    )


def _flood(rejections: Sequence[Rejection], n_rows: int, cap: float) -> str:
    """Return what an operator needs to know of a flood of bad rows, in one line."""
    reasons = ", ".join(
        f"{code} {number}" for code, number in Counter(rejection.code for rejection in rejections).most_common(3)
    )
    example = rejections[0]
    return (
        f"more than {cap:.0%} of the last rows are bad; in this batch {len(rejections)} of {n_rows} ({reasons}), as "
        f"{example.message.topic}/{example.message.partition} offset {example.message.offset}: {example.reason}. "
        "Nothing of the batch was stored; mend the sender, or raise PARCELWATCH_INGEST_REJECT_CAP to go on"
    )
