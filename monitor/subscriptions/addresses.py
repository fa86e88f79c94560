"""Which hosts and addresses may be reached: those that are allowed by name, and of these no private ones unless configured.

A name is resolved once, every address is checked, and the connection goes to a checked one: what the name means a moment later
does not matter. One address that may not be reached refuses the name.
"""

import ipaddress
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from monitor.subscriptions.errors import NotDelivered
from monitor.subscriptions.settings import DeliverySettings

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses behind a translator (RFC 6052)."""


def is_allowed(host: str, settings: DeliverySettings) -> bool:
    """Return whether a host is among those that were allowed by name."""
    name = host.lower().rstrip(".")
    for allowed in (one.lower().rstrip(".") for one in settings.webhook_hosts):
        if allowed in ("*", name) or (allowed.startswith("*.") and name.endswith(allowed[1:])):
            return True
    return False


def resolved(host: str, port: int, settings: DeliverySettings, is_encrypted: bool) -> list[str]:
    """Return the addresses of a host, all of which may be reached.

    Args:
        is_encrypted: without encryption only networks that were configured are reached.

    Raises:
        NotDelivered: the host is not allowed, has no address, or one that may not be reached.
    """
    if not is_allowed(host, settings):
        raise NotDelivered(f"the host {host} is not among PARCELWATCH_DELIVERIES_WEBHOOK_HOSTS")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"the host {host} has no address: {error}") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if not _may_be_reached(ipaddress.ip_address(address.split("%")[0]), settings, is_encrypted):
            raise NotDelivered(
                f"the host {host} has the address {address}, which is not public"
                f"{'' if is_encrypted else ' or not encrypted'}: PARCELWATCH_DELIVERIES_PRIVATE_NETWORKS allows networks"
            )
    return addresses


def _may_be_reached(address: IPv4Address | IPv6Address, settings: DeliverySettings, is_encrypted: bool) -> bool:
    if any(address in network for network in settings.private_networks):
        return True
    return is_encrypted and all(one.is_global and not one.is_multicast for one in (address, *_embedded(address)))


def _embedded(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, IPv6Address):
        mapped = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        mapped += [IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else []
        yield from (one for one in mapped if one is not None)
