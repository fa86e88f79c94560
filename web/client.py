"""The API from Python: tables of what a key may see, as data frames.

    from parcelwatch import connect
    parcels = connect("https://parcels.example.org", "pw_...").parcels("nl-brp", "2025")

Pages are followed to the end; what is refused for now (429, 503) is asked again. Errors: ApiError, one line, a UserError.
"""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import pandas as pd
import requests

from terminal.errors import UserError

TRIES: Final = 6
LONGEST_WAIT_S: Final = 120.0
TIMEOUT_S: Final = (10.0, 150.0)
"""To connect, and between two pieces of an answer: a page of an export may take 30 s, and so may each of its statements."""
FOR_NOW: Final = (429, 503)


class ApiError(UserError):
    """The server is away, or refused what was asked; `status` is None where there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A server, and the key of who asks.

    Args:
        url: of the server, as https://parcels.example.org.
        key: of `parcelwatch access key`.
        sleep: waits for so many seconds.
    """

    def __init__(self, url: str, key: str, sleep: Callable[[float], None] = time.sleep) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ApiError(f"{url!r} is no address of a server: write it as https://parcels.example.org")
        self._root, self._sleep, self._session = url.rstrip("/") + "/", sleep, requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key.strip()}"

    def me(self) -> dict[str, Any]:
        """Return name, role and regions of the one whose key it is."""
        found: dict[str, Any] = self._get("api/me").json()
        return found

    def parcels(
        self, collection: str, season: str, region: str | None = None, as_known_at: str | None = None
    ) -> pd.DataFrame:
        """Return a row for each parcel, with the columns of exports; `geometry` is WKB (`geopandas.GeoSeries.from_wkb`)."""
        path = f"api/exports/{quote(collection, safe='')}/{quote(season, safe='')}.parquet"
        answer = self._get(path, {"region": region, "as_known_at": as_known_at})
        return pd.read_parquet(io.BytesIO(answer.content))

    def rows(self, path: str, **asked: Any) -> pd.DataFrame:
        """Return all rows of a list of the API, as `rows("parcels/12/s2")` and `rows("alerts", limit=500)`, all pages of it."""
        return pd.DataFrame.from_records(list(self._rows(f"api/{path.lstrip('/')}", asked)))

    def _rows(self, path: str, asked: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        following: str | None = path
        while following is not None:
            page = self._get(following, asked).json()
            found = next((page[name] for name in ("rows", "lines", "features") if name in page), None)
            if found is None:
                raise ApiError(f"{path} is no list of the API")
            yield from found
            links = (link["href"] for link in page.get("links", ()) if link["rel"] == "next")
            following, asked = page.get("next") or next(links, None), {}

    def _get(self, path: str, asked: Mapping[str, Any] | None = None) -> requests.Response:
        url = urljoin(self._root, path)
        if urlsplit(url)[:2] != urlsplit(self._root)[:2]:  # the key is for this server alone
            raise ApiError(f"{url} is on another server than {self._root}")
        for attempt in range(TRIES):
            try:
                answer = self._session.get(url, params=dict(asked or {}), timeout=TIMEOUT_S, allow_redirects=False)
            except requests.RequestException as error:
                why = str(error).splitlines()[0][:200]
                raise ApiError(f"{self._root} gave no whole answer ({why}); is it up?") from error
            if answer.status_code not in FOR_NOW or attempt == TRIES - 1:
                break
            self._sleep(min(_wait_s(answer, attempt), LONGEST_WAIT_S))
        if answer.status_code != 200:
            raise ApiError(f"{urlsplit(url).path}: {_said(answer)}", answer.status_code)
        return answer


def connect(url: str, key: str) -> Client:
    """Return a client of a server's API. Raises ApiError where the address is none."""
    return Client(url, key)


def _wait_s(answer: requests.Response, attempt: int) -> float:
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return 2.0**attempt


def _said(answer: requests.Response) -> str:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.reason or "no reason given"
    return f"{' '.join(detail.split())[:500]} ({answer.status_code})"
