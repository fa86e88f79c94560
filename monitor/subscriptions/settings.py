"""Settings of deliveries, from the environment (PARCELWATCH_DELIVERIES_...)."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DeliverySettings(BaseSettings):
    """How deliveries are sent; built at the command line and passed down."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_DELIVERIES_", frozen=True, extra="ignore")

    smtp_host: str | None = None
    """The mail server that takes our e-mails; None: no e-mail can be sent."""
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    """Of the mail server; 587 is that of submission (RFC 6409)."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """starttls: encrypted after the greeting; tls: from the start (port 465); none: for a server on this machine."""
    smtp_user: str | None = None
    """Who we are to the mail server, where it asks."""
    smtp_password: SecretStr | None = None
    """The password of that user."""
    sender: str = "parcelwatch@localhost"
    """The address that e-mails come from."""
    webhook_hosts: list[str] = []
    """Hosts that webhooks and Apprise may reach, as JSON: names, `*.example.org` for all below one, `*` for all public
    ones. None by default."""
    private_networks: list[IPv4Network | IPv6Network] = []
    """Networks, as JSON, that may be reached although they are not public, also without encryption: ["10.1.0.0/16"]."""
    apprise_services: list[str] = []
    """Services that Apprise may use, as JSON, by the first word of their addresses: ["slack", "msteams"]. None by default."""
    folder: Path | None = None
    """Where Atom feeds and calendars are written; None: none can be."""
    ca_file: Path | None = None
    """Certificates (PEM) that sign those of receivers and of the mail server; None: those that the system trusts."""
    interval_s: Annotated[float, Field(gt=0)] = 2.0
    """Pause of a sender that found nothing due."""
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 20.0
    """How long one attempt may take, from the connection to the last byte of the answer."""
    lease_s: Annotated[float, Field(gt=0)] = 90.0
    """How long a sender holds a delivery; after that another sends it again. At least three times `timeout_s`."""
    retry_s: Annotated[float, Field(gt=0)] = 30.0
    """Wait after the first failure; doubled after each further one."""
    longest_wait_s: Annotated[float, Field(gt=0)] = 14400.0
    """The wait is never longer (4 hours: so that a receiver that is back in the morning has everything before noon)."""
    give_up_after: Annotated[int, Field(ge=1)] = 30
    """Attempts before a delivery is dead: at least 63 hours with the waits above, from a Friday's evening to Monday's morning."""
    response_bytes: Annotated[int, Field(ge=0)] = 65536
    """Bytes read of a receiver's answer; the rest is left unread."""
    message_events: Annotated[int, Field(ge=1)] = 500
    """Events in one message; more make several (500: about 300 kB of e-mail)."""
    feed_entries: Annotated[int, Field(ge=1)] = 500
    """Newest entries of a feed, and deadlines of a calendar."""
    keep_days: Annotated[int, Field(ge=1)] = 400
    """Days after which what was sent, folded or discarded is removed from the list of deliveries, and from feeds (a year and a month,
    so that a season can be compared with the one before). What is dead stays."""
