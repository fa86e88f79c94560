"""Settings of the web server, from the environment (PARCELWATCH_WEB_...)."""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
