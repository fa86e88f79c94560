"""Everything else, through Apprise: chat, telephones, tickets. Only services that were allowed by name.

Apprise connects by itself: where an address names a host, that host is checked as a webhook's just before, but not pinned.
"""

from typing import Any
from urllib.parse import urlsplit

from db.subscriptions import Secrets
from monitor.subscriptions import rendering
from monitor.subscriptions.addresses import resolved
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered
from monitor.subscriptions.rendering import Message
from monitor.subscriptions.settings import DeliverySettings


def checked_service(address: str, settings: DeliverySettings) -> str:
    """Return the service of an Apprise address.

    Raises:
        InvalidSubscription: Apprise cannot read it, or the service is not allowed.
    """
    service = urlsplit(address).scheme.lower() if address.isprintable() else ""
    if service not in settings.apprise_services:
        raise InvalidSubscription(
            f"the service {service or '(none)'} is not allowed: add it to PARCELWATCH_DELIVERIES_APPRISE_SERVICES (docs/subscriptions.md)"
        )
    if _plugin(address) is None:
        raise InvalidSubscription(f"Apprise cannot read this address of the service {service}")
    return service


def send(secret: Secrets, message: Message, settings: DeliverySettings) -> None:
    """Hand a message to its service. Raises NotDelivered where it did not take it; Apprise does not say why."""
    import apprise

    address = secret.address or ""
    try:
        checked_service(address, settings)
    except InvalidSubscription as error:
        raise NotDelivered(str(error)) from error
    plugin = _plugin(address)
    host = getattr(plugin, "host", None)
    if any("{host}" in one for one in plugin.templates) and getattr(plugin, "mode", None) != "cloud" and host:
        resolved(str(host), int(getattr(plugin, "port", None) or 443), settings, is_encrypted=bool(plugin.secure))
    title, text = rendering.subject(message), rendering.text(message)
    if not plugin.notify(body=text, title=title, body_format=apprise.NotifyFormat.TEXT):
        raise NotDelivered("the service did not take the message (Apprise)")


def _plugin(address: str) -> Any:
    """Return Apprise's object for an address, None where it cannot read it; nothing of it is kept on disk."""
    import apprise

    asset = apprise.AppriseAsset(app_id="Parcelwatch", storage_mode=apprise.PersistentStoreMode.MEMORY)
    asset.http_redirects = False
    return apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
