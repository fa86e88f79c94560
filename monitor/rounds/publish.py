"""Publishing a round: the lights as known at a time, frozen under a hash that is chained to the round before."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from db import recording
from db import rounds as store
from db.connect import Connection
from db.policies import in_force
from db.rounds import RoundRow
from db.seasons import Season
from monitor.alerts.rules import RULES, VERSION
from monitor.alerts.settings import RuleSettings
from monitor.errors import NotFound
from monitor.inspection.arguments import nothing_by
from monitor.policies.policy import Policy


@dataclass(frozen=True)
class Order:
    """What is to be published, by whom and why."""

    season: Season
    collection: str
    name: str
    by: str
    why: str
    as_known_at: datetime | None = None
    """None: as known now."""


def publish(connection: Connection, order: Order, settings: RuleSettings, now: datetime) -> RoundRow:
    """Freeze the lights of all parcels of a collection in a season; the caller commits.

    Raises:
        NotFound: the name is taken or a number, the time lies ahead, or no parcel was stored by then.
    """
    if order.name.isdigit():
        raise NotFound(f"{order.name!r} cannot name a round: rounds are called by their numbers, too")
    store.lock(connection)
    named = [one for one in store.rounds(connection, order.season.name, order.collection) if one.name == order.name]
    if named:
        raise NotFound(
            f"round {order.name!r} of {order.collection} in {order.season.name} is published (number {named[0].round_key}): "
            "it never changes; choose another name"
        )
    present = recording.present(connection, now)
    at = order.as_known_at or present
    if at > present:
        raise NotFound(f"{at:%Y-%m-%d %H:%M} UTC lies ahead: what is known then cannot be published yet")
    recording.settle(connection, at)
    policy = in_force(connection, order.season.season_key, order.collection, at)
    asked = [] if policy is None else [one.name for one in Policy.stored(policy.content).obligation]
    key, rules, n = store.freeze(connection, order.season.season_key, order.collection, at, [*RULES, *asked])
    if n == 0:
        raise nothing_by(connection, order.season, order.collection, at)
    thresholds = dataclasses.asdict(settings)
    row = RoundRow(
        round_key=key,
        season_key=order.season.season_key,
        collection=order.collection,
        name=order.name,
        as_known_at=at,
        recorded_at=recording.begin(connection, now),
        published_by=order.by,
        reason=order.why,
        rules=list(rules),
        rule_version=VERSION,
        settings=thresholds,
        settings_sha256=hashlib.sha256(json.dumps(thresholds, sort_keys=True).encode()).hexdigest(),
        policy_sha256=None if policy is None else policy.hash,
        n_parcels=n,
        content_sha256=store.content_sha256(connection, key, rules),
        previous_sha256=store.newest_sha256(connection),
        sha256="",
    )
    row = dataclasses.replace(row, sha256=row.digest())
    store.publish(connection, row)
    return row


def why_unproven(connection: Connection, row: RoundRow) -> str | None:
    """Return why a round is not what was published, in words; None where all its hashes are right."""
    if row.digest() != row.sha256:
        return "what it says of itself has another hash than it was published with"
    if store.content_sha256(connection, row.round_key, row.rules) != row.content_sha256:
        return "its lights have another hash than they were published with"
    chain: list[str | None] = [None, *(one.sha256 for one in store.rounds(connection))]
    before = chain[chain.index(row.sha256) - 1]
    return None if before == row.previous_sha256 else "the round published before it is not the one that it names"
