"""Subscriptions: who receives which events of alerts, when and how. Their secrets lie in a table of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, time, timedelta
from typing import Any, Final

import sqlalchemy as sa


@dataclass(frozen=True)
class Subscription:
    """What a person asks for. In the filter None is any; an event of what is excepted is never sent."""

    name: str
    channel: str
    address: str
    """As it may be shown: the whole one may be among the secrets."""
    events: Sequence[str]
    """Of `alert_events`."""
    regions: Sequence[str] | None = None
    crops: Sequence[str] | None = None
    """Names or codes, in any case."""
    schemes: Sequence[str] | None = None
    """Names of policies, as `policy` in an event's evidence."""
    rules: Sequence[str] | None = None
    colours: Sequence[str] | None = None
    min_confidence: float | None = None
    area: str | None = None
    """A multipolygon in degrees, as WKT."""
    except_regions: Sequence[str] | None = None
    except_crops: Sequence[str] | None = None
    except_schemes: Sequence[str] | None = None
    except_rules: Sequence[str] | None = None
    except_area: str | None = None
    mode: str = "immediate"
    within_s: int = 900
    """Of `grouped`: how long the oldest event waits for others."""
    at: time = time(7)
    """Of digests, in `zone`."""
    weekday: int = 1
    """Of weekly digests: 1 Monday to 7 Sunday."""
    zone: str = "UTC"
    quiet_from: time | None = None
    quiet_to: time | None = None
    min_interval_s: int = 0


@dataclass(frozen=True)
class Secrets:
    """What no command prints: the whole address where it holds secrets, and the key that webhooks are signed with."""

    address: str | None = field(default=None, repr=False)
    signing: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StoredSubscription:
    """A subscription with what became of it."""

    subscription_key: int
    asked: Subscription
    created_at: datetime
    created_by: str
    suspended_at: datetime | None
    suspended_because: str | None
    person: str | None
    """Who made it in the API; None: who administers the chain."""


_FIELDS: Final = tuple(one.name for one in fields(Subscription))
_AREAS: Final = ("area", "except_area")
_CASTS: Final = (
    {"colours": "cast(:colours as colour[])"}
    | {name: f"ST_Multi(ST_GeomFromText(:{name}, 4326))" for name in _AREAS}
    # Lower case as the server has it: what it is compared with is made so, too.
    | {
        name: f"(select array_agg(lower(one)) from unnest(cast(:{name} as text[])) one)"
        for name in ("crops", "except_crops")
    }
)
_VALUES: Final = ", ".join(_CASTS.get(name, f":{name}") for name in _FIELDS)
_READ: Final = ", ".join(
    f"ST_AsText({name}) as {name}" if name in _AREAS else "colours::text[]" if name == "colours" else name
    for name in _FIELDS
)
_STORED: Final = f"select subscription_key, {_READ}, created_at, created_by, suspended_at, suspended_because, person from subscriptions"


class NameTaken(Exception):
    """A subscription of that name exists; nothing was stored."""


def add(
    connection: sa.Connection, asked: Subscription, secrets: Secrets, by: str, now: datetime, person: str | None = None
) -> int:
    """Store a subscription and return its key. It receives what is recorded from now on.

    Args:
        person: of the API, who receives events of parcels that they may see by then; None: of all.

    Raises:
        NameTaken: there is one of that name.
    """
    key: int | None = connection.execute(
        sa.text(f"""insert into subscriptions ({", ".join(_FIELDS)}, created_at, created_by, person)
                    values ({_VALUES}, :now, :by, :person)
                    on conflict (name) where ended_at is null do nothing returning subscription_key"""),
        _parameters(asked) | {"now": now, "by": by, "person": person},
    ).scalar_one_or_none()
    if key is None:
        raise NameTaken(asked.name)
    connection.execute(
        sa.text("insert into subscription_secrets values (:key, :address, :signing)"),
        {"key": key, "address": secrets.address, "signing": secrets.signing},
    )
    return key


def change(connection: sa.Connection, key: int, asked: Subscription, secrets: Secrets) -> None:
    """Store a subscription anew and take it up again if it was suspended; what waits is sent as it now says.

    Raises:
        NameTaken: there is another of that name.
    """
    taken = connection.execute(
        sa.text("select from subscriptions where name = :name and ended_at is null and subscription_key <> :key"),
        {"name": asked.name, "key": key},
    )
    if taken.first() is not None:
        raise NameTaken(asked.name)
    connection.execute(
        sa.text(f"""update subscriptions set ({", ".join(_FIELDS)}, suspended_at, suspended_because, failures, not_before)
                        = ({_VALUES}, null, null, 0, null)
                    where subscription_key = :key"""),
        _parameters(asked) | {"key": key},
    )
    connection.execute(
        sa.text("update subscription_secrets set address = :address, signing = :signing where subscription_key = :key"),
        {"key": key, "address": secrets.address, "signing": secrets.signing},
    )


def _parameters(asked: Subscription) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value := getattr(asked, name), tuple) else value  # psycopg: a tuple is a row
        for name in _FIELDS
    }


def suspend(connection: sa.Connection, key: int, because: str, now: datetime) -> None:
    """Send nothing more of a subscription until it is changed: its address was refused for good. What matches is kept."""
    connection.execute(
        sa.text("""update subscriptions set suspended_at = :now, suspended_because = :because
                   where subscription_key = :key and suspended_at is null"""),
        {"key": key, "because": because[:500], "now": now},
    )


def hold_back(connection: sa.Connection, key: int, wait_of: Callable[[int], timedelta], now: datetime) -> None:
    """Try nothing of a subscription for a while, which `wait_of` gives for so many failures in a row."""
    failures: int = connection.execute(
        sa.text("""update subscriptions set failures = least(failures + 1, 32767) where subscription_key = :key
                   returning failures"""),
        {"key": key},
    ).scalar_one()
    connection.execute(
        sa.text("update subscriptions set not_before = :until where subscription_key = :key"),
        {"key": key, "until": now + wait_of(failures)},
    )


def goes_on(connection: sa.Connection, key: int) -> None:
    """Hold a subscription back no longer: a message of it arrived."""
    connection.execute(
        sa.text("""update subscriptions set failures = 0, not_before = null
                   where subscription_key = :key and not_before is not null"""),
        {"key": key},
    )


def end(connection: sa.Connection, key: int, now: datetime) -> None:
    """End a subscription: its secrets and what waited go, what was delivered stays on record."""
    for statement in (
        "update subscriptions set ended_at = :now where subscription_key = :key",
        "delete from subscription_secrets where subscription_key = :key",
        "delete from outbox where subscription_key = :key and delivery_key is null",
        """update deliveries set state = 'discarded', ended_at = :now, last_error = 'the subscription was removed'
           where subscription_key = :key and state in ('pending', 'dead')""",
    ):
        connection.execute(sa.text(statement), {"key": key, "now": now})


def stored(
    connection: sa.Connection,
    name: str | None = None,
    key: int | None = None,
    lock: bool = False,
    person: str | None = None,
) -> list[StoredSubscription]:
    """Return the subscriptions that have not ended, by name; of one name, or of one key, at most one; of one person of the API.

    Args:
        lock: until the transaction ends nobody changes them; the monitor, which refers to them, waits for nothing.
    """
    rows = connection.execute(
        sa.text(f"""{_STORED} where ended_at is null and (cast(:name as text) is null or name = :name)
                        and (cast(:key as bigint) is null or subscription_key = :key)
                        and (cast(:person as text) is null or person = :person)
                    order by name {"for no key update" if lock else ""}"""),
        {"name": name, "key": key, "person": person},
    )
    return [_stored(row._mapping) for row in rows]


def _stored(row: sa.RowMapping) -> StoredSubscription:
    asked = Subscription(**{name: row[name] for name in _FIELDS})
    rest = ("subscription_key", "created_at", "created_by", "suspended_at", "suspended_because", "person")
    return StoredSubscription(asked=asked, **{name: row[name] for name in rest})


def secrets_of(connection: sa.Connection, key: int) -> Secrets:
    """Return the secrets of a subscription, for its channel alone."""
    row = connection.execute(
        sa.text("select address, signing from subscription_secrets where subscription_key = :key"), {"key": key}
    ).one_or_none()
    return Secrets() if row is None else Secrets(row.address, row.signing)


def not_stored(connection: sa.Connection, asked: Subscription) -> list[tuple[str, str]]:
    """Return regions and declared crops that a subscription names and no stored parcel has, as (region or crop, name)."""
    rows = connection.execute(
        sa.text("""select 'region', name from unnest(cast(:regions as text[])) name
                   where not exists (select from regions where code = name)
                   union all select 'crop', name from unnest(cast(:crops as text[])) name
                   where not exists (select from declarations join parcels using (parcel_key)
                                     where lower(name) in (lower(crop_name), lower(crop_code)))"""),
        {
            "regions": [*(asked.regions or ()), *(asked.except_regions or ())],
            "crops": [*(asked.crops or ()), *(asked.except_crops or ())],
        },
    )
    return [(kind, name) for kind, name in rows]
