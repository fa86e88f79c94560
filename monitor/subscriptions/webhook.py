"""Webhooks: a CloudEvent (1.0, structured JSON) for each delivery, signed as Standard Webhooks, posted to a checked address.

The delivery's key is `webhook-id` and the event's `id`, the same at each attempt. Redirects are not followed, proxies not used.
"""

import base64
import contextlib
import http.client
import secrets
import socket
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, urlsplit

from db.subscriptions import Secrets
from monitor.subscriptions import rendering
from monitor.subscriptions.addresses import is_allowed, resolved
from monitor.subscriptions.deadline import limited
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered, RefusedForGood
from monitor.subscriptions.rendering import Message
from monitor.subscriptions.settings import DeliverySettings

TYPE: Final = "parcelwatch.alerts.v1"
"""`type` of our CloudEvents; a new number where receivers would misread the data."""
SOURCE: Final = "/parcelwatch/alerts"
GONE: Final = 410


def new_secret() -> str:
    """Return a new signing secret in the form of Standard Webhooks: 32 random bytes, within its 24 to 64."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def checked_url(url: str, settings: DeliverySettings) -> SplitResult:
    """Return the parts of a webhook's URL.

    Raises:
        InvalidSubscription: it is no URL for a webhook, or its host is not allowed.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidSubscription(f"the webhook's URL cannot be read: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise InvalidSubscription("a webhook's URL is https://HOST/PATH, without a user or password")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidSubscription("a webhook's URL has only ASCII characters, others percent-encoded")
    if not is_allowed(parts.hostname, settings):
        raise InvalidSubscription(
            f"the host {parts.hostname} is not allowed: add it to PARCELWATCH_DELIVERIES_WEBHOOK_HOSTS (docs/subscriptions.md)"
        )
    return parts


def shown(parts: SplitResult) -> str:
    """Return a URL without what may be secret: path and query of many receivers are."""
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/…"


def body(message: Message) -> tuple[bytes, dict[str, str]]:
    """Return a message as a CloudEvent in structured JSON, with its headers."""
    from cloudevents.core.bindings.http import to_structured_event
    from cloudevents.core.v1.event import CloudEvent

    event = CloudEvent(
        {
            "id": str(message.key),
            "source": SOURCE,
            "type": TYPE,
            "subject": rendering.subject(message),
            "time": message.formed_at.astimezone(UTC),
            "datacontenttype": "application/json",
        },
        dict(rendering.data(message)),
    )
    made = to_structured_event(event)
    return made.body, dict(made.headers)


def send(secret: Secrets, message: Message, settings: DeliverySettings, now: datetime) -> None:
    """Post a message.

    Raises:
        NotDelivered: it did not arrive; RefusedForGood where the receiver says that it is gone.
    """
    from standardwebhooks import Webhook

    content, headers = body(message)
    signature = Webhook(secret.signing or "").sign(str(message.key), now, content.decode())
    headers |= {
        "webhook-id": str(message.key),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
        "user-agent": "parcelwatch",
    }
    try:
        status, answer = _post(checked_url(secret.address or "", settings), content, headers, settings)
    except InvalidSubscription as error:
        raise NotDelivered(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from error
    if status == GONE:
        raise RefusedForGood("the receiver answered 410: it is gone")
    if not 200 <= status < 300:
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        raise NotDelivered(f"the receiver answered {status}{redirect}", _retry_after(answer, now))


def _post(
    url: SplitResult, content: bytes, headers: Mapping[str, str], settings: DeliverySettings
) -> tuple[int, http.client.HTTPMessage]:
    """Return status and headers of the answer."""
    assert url.hostname is not None
    is_encrypted = url.scheme == "https"
    port = url.port or (443 if is_encrypted else 80)
    kind = http.client.HTTPSConnection if is_encrypted else http.client.HTTPConnection
    connection = kind(url.hostname, port)
    opened: socket.socket | None = None
    try:
        with limited(settings.timeout_s, lambda: opened):
            opened = _connected(resolved(url.hostname, port, settings, is_encrypted), port, settings)
            if is_encrypted:
                context = ssl.create_default_context(cafile=settings.ca_file)
                # The certificate is for the name, though the connection goes to a checked address.
                encrypted = context.wrap_socket(opened, server_hostname=url.hostname, do_handshake_on_connect=False)
                opened = encrypted
                encrypted.do_handshake()
            connection.sock = opened  # a connection that has a socket opens none of its own
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", target, content, dict(headers))
            answer = connection.getresponse()
            with contextlib.suppress(
                OSError, http.client.HTTPException
            ):  # the answer is known: what follows changes nothing
                answer.read(settings.response_bytes)
            answer.close()
            return answer.status, answer.msg
    finally:
        connection.close()
        if opened is not None:
            opened.close()


def _connected(addresses: Sequence[str], port: int, settings: DeliverySettings) -> socket.socket:
    """Return a connection to the first address that takes one; there is at least one address."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return _to(address, port, settings)
    return _to(addresses[-1], port, settings)


def _to(address: str, port: int, settings: DeliverySettings) -> socket.socket:
    made = socket.create_connection((address, port), settings.timeout_s / 2)
    made.settimeout(settings.timeout_s)
    return made


def _retry_after(answer: http.client.HTTPMessage, now: datetime) -> timedelta | None:
    """Return how long the receiver asks to be left alone, where it says so."""
    said = str(answer.get("retry-after") or "").strip()
    try:
        wait = timedelta(seconds=int(said)) if said.isdigit() else parsedate_to_datetime(said) - now
    except (ValueError, TypeError, OverflowError):
        return None
    return max(wait, timedelta())
