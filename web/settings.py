"""Settings of the web server (PARCELWATCH_WEB_...) and of its sign-in by OpenID Connect (PARCELWATCH_OIDC_...), from the environment."""

import ipaddress
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.access import Role


class WebSettings(BaseSettings):
    """How the API and the console are served; built at the command line and passed down."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_WEB_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every one of the machine, behind a proxy that encrypts."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 for any that is free."""
    dsn: SecretStr | None = None
    """Connection string of the server's own login: a member of `parcelwatch_web` and, without inheriting, of the roles it takes on. Not
    set: the one of the chain."""
    connections: Annotated[int, Field(ge=1)] = 8
    """Connections to the database at once; requests beyond wait."""
    statement_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """The longest that one statement of a request may take."""
    requests_per_minute: Annotated[int, Field(ge=1)] = 600
    """Requests of one person a minute; more are refused with 429 and when to come again. Map tiles count a tenth."""
    exports: Annotated[int, Field(ge=1)] = 2
    """Exports that are made at once, each with a connection; more are refused with 503 and when to come again."""
    session_hours: Annotated[float, Field(gt=0)] = 10.0
    """Hours after which a sign-in of the console ends."""
    key_days: Annotated[float, Field(gt=0)] = 365.0
    """Days after which a new key ends, unless another time is given."""
    body_bytes: Annotated[int, Field(ge=1)] = 1 << 20
    """The largest body of a request, but for photos; a drawn area of 10,000 points has a quarter of it."""
    photo_bytes: Annotated[int, Field(ge=1)] = 10 << 20
    """The largest photo that answers a request; telephones make 2 to 8 MB."""
    events_interval_s: Annotated[float, Field(gt=0)] = 1.0
    """How often new events of alerts are looked for, while anybody listens."""
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    """How often a stream of events says that it lives, and asks whether the key or sign-in still does."""
    streams: Annotated[int, Field(ge=1)] = 100
    """Streams of events at once, of all people."""
    streams_per_person: Annotated[int, Field(ge=1)] = 5
    """Streams of events at once of one person."""
    is_https: bool = False
    """Whether browsers reach the server by HTTPS: cookies are then sent over that alone."""


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine, which nobody listens in on."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_protected(url: str) -> bool:
    """Return whether a URL is one of HTTPS, or of this machine, and names no user."""
    try:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        return is_safe and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _issuer(url: str) -> str:
    if not is_protected(url) or "?" in url or "#" in url:
        raise ValueError("the issuer is an address with https (http on this machine alone), without ? and #")
    return url


class OfGroup(BaseModel):
    """What members of a group of the issuer are here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    regions: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _regions_are_of_inspectors(self) -> Self:
        if (self.role == "inspector") != bool(self.regions):
            raise ValueError("inspectors need regions, and the other roles take none")
        return self


class OidcSettings(BaseSettings):
    """How people sign in to the console with an account elsewhere; without an issuer they do not."""

    model_config = SettingsConfigDict(
        env_prefix="PARCELWATCH_OIDC_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    issuer: Annotated[str, AfterValidator(_issuer)] | None = None
    """The issuer, as it writes itself; /.well-known/openid-configuration below it says the rest. HTTPS, but on this machine."""
    client_id: Annotated[str, Field(min_length=1)] | None = None
    """What the issuer calls this server. Its redirect URI there: the console's address and /console/sign-in/callback."""
    client_secret: SecretStr | None = None
    """The secret that the issuer gave this server."""
    name: Annotated[str, Field(min_length=1, max_length=60)] = "single sign-on"
    """What the sign-in page calls it, after "Sign in with"."""
    scope: str = "openid email"
    """Scopes that are asked for; some issuers send groups for one of these only."""
    groups_claim: str = "groups"
    """The claim with a person's groups; with dots for one within another, as realm_access.roles."""
    groups: dict[str, OfGroup] = {}
    """Groups that let people in who were not added, as JSON: {"field north": {"role": "inspector", "regions": ["north-1"]}}. Of
    several the first gives the role; an inspector sees the regions of all."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = {"ISSUER": self.issuer, "CLIENT_ID": self.client_id, "CLIENT_SECRET": self.client_secret}
        if missing := [f"PARCELWATCH_OIDC_{name}" for name, value in given.items() if value is None]:
            if len(missing) < len(given) or self.groups:
                raise ValueError(f"sign-in by OpenID Connect also needs {' and '.join(missing)}")
        elif "openid" not in self.scope.split():
            raise ValueError("PARCELWATCH_OIDC_SCOPE has no openid")
        return self
