"""A sender: forms messages of what is due, and sends those whose turn it is. Any number may run, on any number of machines.

    pass_once   form: of each subscription that events wait for ── then send a message of each in turn, for some rounds
                ── then remove what ended long ago

A subscription whose message did not arrive is held back for a while, longer after each failure in a row: the time-outs of a
receiver that is away would else take the time of all others.

Forming and claiming are transactions of their own, and sending is in none. A sender that dies between sending and recording
has sent a message that is sent again under the same key: at least once, and once for who looks at the key.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from db import deliveries as store
from db import subscriptions
from db.connect import Connection, drop_pooled, engine
from db.deliveries import Held, SentEvent
from db.errors import DATABASE_ERRORS, DatabaseUnavailable, first_line, is_away
from db.subscriptions import Secrets, StoredSubscription
from monitor.subscriptions import feeds, incidents, mail, services, webhook
from monitor.subscriptions.errors import NotDelivered, RefusedForGood, Unsendable
from monitor.subscriptions.rendering import Message
from monitor.subscriptions.settings import DeliverySettings
from monitor.subscriptions.timing import Timing, due, in_parts, once_each

log = logging.getLogger(__name__)

MESSAGES_AT_ONCE: Final = 10
"""Full messages formed of one subscription in one transaction; more come with the next pass."""
ROUNDS: Final = 20
"""Messages of a subscription that are sent before what became due meanwhile is formed: a minute or less of work."""
FEEDS: Final = ("atom", "icalendar")
"""Channels that are files."""
REMOVED_AT_ONCE: Final = 1000
"""Deliveries that a pass removes, more than it sends of any twenty subscriptions: a short transaction, and no backlog."""
LEAST_SHARE: Final = 0.75
"""Of a wait, where chance makes it shorter; chosen because a quarter spreads what failed together over minutes."""
LONGEST_HOLD_S: Final = 900.0
"""A receiver that is back has its first message after a quarter of an hour at most, and then the others."""


@dataclass(frozen=True)
class Sent:
    """What a pass did."""

    formed: int = 0
    sent: int = 0
    failed: int = 0

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(self.formed + other.formed, self.sent + other.sent, self.failed + other.failed)


def run(dsn: str, settings: DeliverySettings, clock: Callable[[], datetime], stop: threading.Event) -> None:
    """Send what becomes due until `stop` is set; a database that is away is waited for."""
    while not stop.is_set():
        try:
            total = pass_once(dsn, settings, clock, stop)
            if total != Sent():
                log.info("%d messages formed, %d sent, %d failed", total.formed, total.sent, total.failed)
                continue
        except (*DATABASE_ERRORS, DatabaseUnavailable) as error:
            if not is_away(error):
                raise
            log.warning("%s; waiting for it", first_line(error))
            drop_pooled(dsn)
        stop.wait(settings.interval_s)


def send_all(dsn: str, settings: DeliverySettings, clock: Callable[[], datetime]) -> Sent:
    """Send until nothing is due any more."""
    total = done = pass_once(dsn, settings, clock)
    while done != Sent():
        done = pass_once(dsn, settings, clock)
        total += done
    return total


def pass_once(
    dsn: str, settings: DeliverySettings, clock: Callable[[], datetime], stop: threading.Event | None = None
) -> Sent:
    """Form what is due and send, up to `ROUNDS` messages of each subscription, or until `stop` after the message in hand."""
    total = Sent(formed=form(dsn, settings, clock()))
    for _ in range(ROUNDS):
        keys, outcomes = _due(dsn, clock()), list[bool | None]()
        for key in keys:  # a message of each in turn: a thousand of one do not hold up the one of another
            if stop is not None and stop.is_set():
                return total
            outcomes.append(send_next(dsn, key, settings, clock))
            total += Sent(sent=int(outcomes[-1] is True), failed=int(outcomes[-1] is False))
        if all(outcome is None for outcome in outcomes):  # none is due, or other senders are at them
            break
    with engine(dsn).begin() as connection:
        store.remove_finished(connection, clock() - timedelta(days=settings.keep_days), REMOVED_AT_ONCE)
    return total


def _due(dsn: str, now: datetime) -> list[int]:
    with engine(dsn).begin() as connection:
        return store.due(connection, now)


def form(dsn: str, settings: DeliverySettings, now: datetime) -> int:
    """Make the messages that are due of the events that wait, and return how many."""
    with engine(dsn).begin() as connection:
        heads = store.waiting(connection)
        asked = {one.subscription_key: one for one in subscriptions.stored(connection)} if heads else {}
        # Where the oldest is not due nothing is: a digest's thousands are not read every few seconds until its day comes.
        keys = [key for key, oldest in heads if key in asked and due(Timing.of(asked[key].asked), [oldest], None, now)]
        seen = incidents.seen(
            connection, (one for key in keys for one in store.waiting_of(connection, key, _at_once(settings)))
        )
    n_formed = 0
    for key in keys:
        with engine(dsn).begin() as connection:
            if not store.lock_subscription(connection, key):
                continue  # another sender is at it
            n_formed += _form(connection, subscriptions.stored(connection, key=key)[0], seen, settings, now)
    return n_formed


def _at_once(settings: DeliverySettings) -> int:
    return MESSAGES_AT_ONCE * settings.message_events


def _form(
    connection: Connection,
    subscription: StoredSubscription,
    seen: incidents.Seen,
    settings: DeliverySettings,
    now: datetime,
) -> int:
    """Make the messages of a subscription that is locked, as it now is; return how many, folded ones too.

    What came since the pass began waits for the next one: it may be of an incident that there was none of yet.
    """
    key, timing = subscription.subscription_key, Timing.of(subscription.asked)
    last, n_folded = store.last_formed(connection, key), 0
    waiting = [one for one in store.waiting_of(connection, key, _at_once(settings)) if one.event_nr in seen.events]
    if subscription.asked.channel not in FEEDS:  # a feed's file is written anew as a whole: there is nothing to spare
        waiting = incidents.marked(connection, key, waiting, seen)
    if timing.mode == "immediate":
        told = [one for one in waiting if one.told_in is not None]
        n_folded = store.fold(connection, key, told, now) if told else 0
        waiting = [one for one in waiting if one.told_in is None]
    groups = in_parts(due(timing, waiting, last, now), settings.message_events)
    if timing.mode == "immediate":
        groups = once_each(groups)
    if groups:
        store.form(connection, key, groups, now)
    return n_folded + len(groups)


def waiting_events(connection: Connection, subscription: StoredSubscription, limit: int) -> list[SentEvent]:
    """Return the events that wait for a subscription and will be in a message, with their incidents."""
    key = subscription.subscription_key
    is_folded = subscription.asked.mode == "immediate"
    waiting = store.waiting_of(connection, key, limit)
    marked = incidents.marked(connection, key, waiting, incidents.seen(connection, waiting))
    incident_of = {one.event_nr: one.incident for one in marked if not (is_folded and one.told_in is not None)}
    events = store.waiting_events(connection, key, limit)
    return [replace(one, incident=incident_of[one.event_nr]) for one in events if one.event_nr in incident_of]


def send_next(dsn: str, key: int, settings: DeliverySettings, clock: Callable[[], datetime]) -> bool | None:
    """Send the message of a subscription whose turn it is; return whether it arrived, None where none is due."""
    now = clock()
    with engine(dsn).begin() as connection:
        held = store.claim(connection, key, now + timedelta(seconds=settings.lease_s), now)
    if held is None:
        return None
    try:
        if held.attempts > settings.give_up_after:  # nobody recorded a failure: it may be what they die of
            raise Unsendable("its senders ended before they could say whether it arrived")
        _deliver(dsn, held, settings, now)
    except NotDelivered as error:
        _record_failure(dsn, held, error, settings, clock())
        return False
    except Exception as error:
        if is_away(error):
            raise  # the lease ends, and it is sent again
        # A message that nobody foresaw, perhaps: it must not stop the others, and ends as a dead delivery that is seen.
        log.warning("delivery %s failed: %s", held.idempotency_key, _one_line(error), exc_info=error)
        _record_failure(dsn, held, NotDelivered(_one_line(error)), settings, clock())
        return False
    with engine(dsn).begin() as connection:
        # The subscription before its delivery, as whoever folds something into it locks them: else each may wait for the other.
        subscriptions.goes_on(connection, key)
        store.sent(connection, held, clock())
    return True


def _deliver(dsn: str, held: Held, settings: DeliverySettings, now: datetime) -> None:
    with engine(dsn).begin() as connection:
        found = subscriptions.stored(connection, key=held.subscription_key)
        secrets = subscriptions.secrets_of(connection, held.subscription_key)
        events = store.events_of(connection, held.delivery_key)
    if not found:
        raise Unsendable("the subscription was removed")
    message = Message(held.idempotency_key, found[0].asked.name, held.formed_at, events)
    if found[0].asked.channel in FEEDS:
        write_feed(dsn, found[0], settings, now)
    else:
        over_channel(found[0], secrets, message, settings, now)


def over_channel(
    subscription: StoredSubscription, secrets: Secrets, message: Message, settings: DeliverySettings, now: datetime
) -> None:
    """Send a message over the channel of its subscription. Raises NotDelivered."""
    match subscription.asked.channel:
        case "email":
            mail.send(subscription.asked.address, message, settings)
        case "webhook":
            webhook.send(secrets, message, settings, now)
        case "apprise":
            services.send(secrets, message, settings)
        case channel:
            raise Unsendable(f"there is no channel {channel}")


def write_feed(dsn: str, subscription: StoredSubscription, settings: DeliverySettings, now: datetime) -> None:
    """Write the file of a feed anew. Raises NotDelivered."""
    with engine(dsn).begin() as connection:
        # Locked while the file is written: two senders would else replace the newer file with the older.
        if not store.lock_subscription(connection, subscription.subscription_key, wait=True):
            raise NotDelivered("the subscription was suspended or removed meanwhile")
        content = feed(connection, subscription, settings, now)
        feeds.write(subscription.asked.address, content, settings)


def feed(
    connection: Connection,
    subscription: StoredSubscription,
    settings: DeliverySettings,
    now: datetime,
    with_waiting: bool = False,
) -> bytes:
    """Return the file of a feed as it now is, with `with_waiting` as it will be."""
    key, name = subscription.subscription_key, subscription.asked.name
    if subscription.asked.channel == "icalendar":
        return feeds.calendar(name, store.deadlines(connection, key, settings.feed_entries))
    events = store.newest_events(connection, key, settings.feed_entries, with_waiting)
    return feeds.atom(key, feeds.as_message(name, events, now))


def _record_failure(dsn: str, held: Held, error: NotDelivered, settings: DeliverySettings, now: datetime) -> None:
    """Record a failure: try again later, give up, or suspend the subscription."""
    log.info("delivery %s did not arrive: %s", held.idempotency_key, error)
    is_dead = isinstance(error, Unsendable) or held.attempts >= settings.give_up_after
    next_try = None if is_dead else now + wait_after(held, settings, error.wait)
    with engine(dsn).begin() as connection:
        if isinstance(error, RefusedForGood):
            # The message stays: it goes to the new address, once somebody gives one.
            subscriptions.suspend(connection, held.subscription_key, str(error), now)
            next_try = now
        elif not isinstance(error, Unsendable):
            subscriptions.hold_back(connection, held.subscription_key, partial(_held_back, settings), now)
        store.failed(connection, held, str(error), next_try, now)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"


def _held_back(settings: DeliverySettings, failures: int) -> timedelta:
    """Return how long a subscription is held back after failures in a row; never longer than the message that failed."""
    return timedelta(seconds=min(_doubled(settings, failures), LONGEST_HOLD_S) * LEAST_SHARE)


def _doubled(settings: DeliverySettings, times: int) -> float:
    return min(settings.retry_s * 2.0 ** min(times - 1, 40), settings.longest_wait_s)


def wait_after(held: Held, settings: DeliverySettings, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after an attempt: doubled each time up to a limit, less up to a quarter by chance.

    The chance keeps a thousand messages that failed together from coming back together; it hangs on key and attempt alone.
    """
    share = random.Random(f"{held.idempotency_key} {held.attempts}").uniform(LEAST_SHARE, 1.0)
    wait = timedelta(seconds=_doubled(settings, held.attempts) * share)
    longest = timedelta(seconds=settings.longest_wait_s)
    return wait if asked is None else min(max(wait, asked), longest)
