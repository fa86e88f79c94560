"""How the files of a catalogue are opened: as they are, with a SAS token (Planetary Computer), or from S3 by keys.

    https   the address itself; GDAL reads ranges of it
    sas     the address and a token of its storage account and container, kept until shortly before it expires
    s3      /vsis3/BUCKET/KEY; endpoint from the profile, keys from the environment, through GDAL's options

Source: planetarycomputer.microsoft.com/docs/concepts/sas; gdal.org, virtual file systems, /vsis3/.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import rasterio

from ingest.errors import IngestError
from ingest.imagery.scene import Scene
from ingest.scenes.http_retries import Http, SourceUnavailable
from ingest.scenes.profiles import CatalogueProfile

KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Variables of the environment that GDAL itself takes S3 keys from."""
_BLOBS: Final = ".blob.core.windows.net"
_SIGNED: Final = re.compile(r"((?:://|/vsi)[^\s?]*)\?[^\s'\"]*")
_LEAST_LEFT: Final = timedelta(minutes=10)
"""A token is renewed when less is left: chosen as longer than a scene takes to read over a slow line."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    until: datetime


class NoKeys(IngestError):
    """The environment holds no keys of the object store: set them where scenes are cut, then try again."""


class Access:
    """A catalogue's way to its files, with the tokens it has.

    Args:
        environment: keys of object stores and subscriptions.
        http: for tokens; asked only where the profile says sas.
        now: the present, to know when a token ends.
    """

    def __init__(
        self, profile: CatalogueProfile, environment: Mapping[str, str], http: Http, now: Callable[[], datetime]
    ) -> None:
        self.profile, self._access, self._environment = profile, profile.access, environment
        self._http, self._now = http, now
        self._tokens: dict[str, _Token] = {}

    def opened(self, href: str) -> str:
        """Return the address as GDAL opens it. Raises NoKeys, and SourceUnavailable or SourceRefused for want of a token."""
        if href.startswith("s3://"):
            if self._access.kind == "s3" and (missing := [name for name in KEYS if not self._environment.get(name)]):
                raise NoKeys(f"profile {self.profile.name}: its files need {' and '.join(missing)} in the environment")
            return f"/vsis3/{href.removeprefix('s3://')}"
        if self._access.kind == "sas" and (urlsplit(href).hostname or "").endswith(_BLOBS):
            return f"{href}{'&' if '?' in href else '?'}{self._token(href)}"
        return href

    def scene(self, scene: Scene) -> Scene:
        """Return the scene with every band's address as GDAL opens it; to be made just before it is read: tokens expire."""
        return replace(
            scene, bands={name: replace(band, href=self.opened(band.href)) for name, band in scene.bands.items()}
        )

    def environment(self) -> AbstractContextManager[Any]:
        """Return GDAL's options for these files. Entered in the main thread they hold in every thread."""
        options = {}
        if self._access.kind == "s3":
            options = {
                "AWS_S3_ENDPOINT": self._access.endpoint or "",
                "AWS_VIRTUAL_HOSTING": "FALSE",
                "AWS_HTTPS": "YES" if self._access.secure else "NO",
                "AWS_DEFAULT_REGION": "default",
            }
        entered: AbstractContextManager[Any] = rasterio.Env(**options)
        return entered

    def _token(self, href: str) -> str:
        parts = urlsplit(href)
        container = f"{(parts.hostname or '').removesuffix(_BLOBS)}/{parts.path.split('/')[1]}"
        held = self._tokens.get(container)
        if held is None or held.until - self._now() < _LEAST_LEFT:
            key = self._environment.get(self._access.key_variable or "")
            answer = self._http.json(
                "GET",
                f"{self._access.token_api}/{container}",
                headers={"Ocp-Apim-Subscription-Key": key} if key else {},
            )
            held = self._tokens[container] = self._read(answer)
        return held.text

    def _read(self, answer: Any) -> _Token:
        try:
            until = datetime.fromisoformat(answer["msft:expiry"])
            return _Token(str(answer["token"]), until if until.tzinfo else until.replace(tzinfo=UTC))
        except (KeyError, TypeError, ValueError) as error:
            raise SourceUnavailable(f"{self._http.source}: its answer holds no token with an expiry") from error


def unsigned(text: str) -> str:
    """Return a text in which addresses are cut at their signature: for messages and logs."""
    return _SIGNED.sub(r"\1", text)
