"""Where files of scenes may be read from: folders and hosts that somebody in charge named, never what an item says alone.

    folders     PARCELWATCH_SCENES_FOLDERS, what `scenes add` and `scenes watch` were given
    hosts       PARCELWATCH_SCENES_HOSTS, the hosts of the profiles that come with the project and of the scene's own

An item is written by others: its addresses could name any file of this machine or any server that it reaches.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests

from ingest.errors import IngestError
from ingest.imagery.scene import Scene
from ingest.scenes.profiles import CatalogueProfile, load_profile, shipped_profiles

_MOST_REDIRECTS: Final = 5
_TIMEOUT_S: Final = (10.0, 60.0)
_PORTS: Final = {"http": 80, "https": 443}


class NotAllowed(IngestError):
    """A file of a scene lies where nobody in charge allowed it: name the place in a setting, or mend the item."""


def named(place: str) -> str:
    """Return the folder or host that a person names with a path or address: it may be read from then on."""
    if "://" in place and not place.startswith("file://"):
        return _host(place)
    path = Path(place.removeprefix("file://")).resolve()
    is_container = path.is_dir() and path.suffix != ".SAFE"
    return str(path if is_container else path.parent)


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and hosts (host, host:port, *.domain, s3://bucket) that are allowed."""

    folders: tuple[Path, ...]
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, named_: Iterable[str], folders: Iterable[Path], hosts: Iterable[str]) -> "Places":
        """Return the places that operators named, those of the settings, and the hosts of the shipped profiles."""
        known = list(named_)
        paths = [Path(place) for place in known if place.startswith("/")]
        shipped = [host for name in shipped_profiles() for host in hosts_of(load_profile(name))]
        return cls(
            tuple(path.resolve() for path in (*paths, *folders)),
            (*(place for place in known if not place.startswith("/")), *hosts, *shipped),
        )

    def require(self, scene: Scene, profile: CatalogueProfile | None) -> None:
        """Check every address as the item or the product says it. Raises NotAllowed; nothing is opened or asked."""
        hosts = (*self.hosts, *(hosts_of(profile) if profile else ()))
        for name, band in scene.bands.items():
            self._require(name, band.href, hosts, profile)

    def require_file(self, path: str) -> None:
        """Check the path of a product. Raises NotAllowed."""
        self._require("product", path, (), None)

    def final(self, href: str, profile: CatalogueProfile | None, get: Callable[..., requests.Response]) -> str:
        """Return where an http address leads in the end: every host on the way is checked before it is asked.

        Raises NotAllowed, and requests' errors.
        """
        hosts = (*self.hosts, *(hosts_of(profile) if profile else ()))
        for _ in range(_MOST_REDIRECTS + 1):
            with get(
                href, headers={"Range": "bytes=0-15"}, allow_redirects=False, stream=True, timeout=_TIMEOUT_S
            ) as answer:
                if not answer.is_redirect:
                    return href
                href = urljoin(href, answer.headers["location"])
            self._require("redirect", href, hosts, profile)
        raise NotAllowed(f"{_shown(href)}: more than {_MOST_REDIRECTS} redirects")

    def _require(self, name: str, href: str, hosts: Iterable[str], profile: CatalogueProfile | None) -> None:
        if href.startswith("/vsizip//"):  # of a SAFE in a zip; an item may not name it
            href = href.removeprefix("/vsizip/").partition(".zip/")[0] + ".zip"
        if href.startswith("s3://"):
            bucket = f"s3://{urlsplit(href).netloc}"
            if not (profile and profile.access.kind == "s3") and bucket not in hosts:
                raise NotAllowed(f"{name}: {bucket} is not allowed; name it in PARCELWATCH_SCENES_HOSTS")
        elif href.startswith(("http://", "https://")):
            host = _host(href)
            if not any(fnmatchcase(host, one.lower()) for one in hosts):
                raise NotAllowed(f"{name}: host {host} is not allowed; name it in PARCELWATCH_SCENES_HOSTS")
        elif not href.startswith("/") or href.startswith("/vsi"):
            raise NotAllowed(f"{name}: {_shown(href)} is neither a file's path nor an address of http, https or s3")
        elif not any(Path(href).resolve().is_relative_to(folder) for folder in self.folders):
            raise NotAllowed(
                f"{name}: {_shown(href)} lies in no folder that is allowed; name it in PARCELWATCH_SCENES_FOLDERS, or "
                "`scenes add` it from there"
            )


def hosts_of(profile: CatalogueProfile) -> tuple[str, ...]:
    """Return the hosts that a profile's files lie on: those it names, and its API's."""
    return (*profile.access.hosts, _host(profile.api))


def _host(address: str) -> str:
    """Return host and port, the port only where it is not the scheme's own. Raises NotAllowed."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        raise NotAllowed(f"{_shown(address)}: no address") from None
    host = (parts.hostname or "").rstrip(".")
    return host if port in (None, _PORTS.get(parts.scheme)) else f"{host}:{port}"


def _shown(href: str) -> str:
    return f"{href.partition('?')[0][:120]!r}"
