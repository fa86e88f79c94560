"""Searching a STAC API with pystac-client: patient requests, pages to the last, conditions on the publication time."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from pystac.link import Link
from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from db.sensors import Sensor
from ingest.scenes.http_retries import Http, SourceUnavailable
from ingest.scenes.profiles import CatalogueProfile

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""

_MOST_EMPTY_PAGES: Final = 10
"""Some servers filter after paging and send empty pages with more behind; others offer a next page for ever."""


class _PatientIO(StacApiIO):
    """pystac-client's requests, made by our session; its paging, mended where it loses items."""

    def __init__(self, http: Http, pause_s: float) -> None:
        super().__init__(max_retries=None)
        self._http, self._pause_s = http, pause_s

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return the text of a page that is known to be one."""
        method = (method or "GET").upper()
        given: dict[str, Any] = {"body": parameters} if method == "POST" else {"params": parameters}
        return self._http.text(method, href, _page, headers=headers, **given)

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield pages until none is next. pystac-client's own stops at an empty page, whatever follows it."""
        page = self.read_json(url, method=method, parameters=parameters)
        asked, empty = set(), 0
        while True:
            yield page
            empty = 0 if page["features"] else empty + 1
            links = [link for link in page.get("links") or [] if link.get("rel") == "next"]
            if not links or empty >= _MOST_EMPTY_PAGES:
                return
            key = json.dumps(links[0], sort_keys=True)
            if key in asked:
                raise SourceUnavailable(f"{self._http.source}: its pages go in a circle")
            asked.add(key)
            self._http.pause(self._pause_s)
            page = self.read_json(Link.from_dict(links[0]), parameters=parameters)


def _page(text: str) -> str:
    """Return the text, if it is a page of a search; a ValueError makes the session ask again."""
    page = json.loads(text)
    if not isinstance(page, dict) or not isinstance(page.get("features"), list):
        raise ValueError("no page of items")
    return text


def search(
    http: Http, profile: CatalogueProfile, sensor: Sensor, box: Box, since: datetime, published_since: datetime | None
) -> Iterator[list[Any]]:
    """Yield pages of items over a box, acquired since and, where the API can be asked so, published since.

    Raises SourceUnavailable, SourceRefused, Stopped.
    """
    condition: dict[str, Any] = {}
    if profile.published and published_since:
        moment = rfc3339(published_since)
        condition = (
            {"query": {profile.published: {"gte": moment}}}
            if profile.published_by == "query"
            else {"filter": {"op": ">=", "args": [{"property": profile.published}, moment]}, "filter_lang": "cql2-json"}
        )
    requests = _PatientIO(http, profile.pause_s)
    asked = ItemSearch(
        f"{profile.api}/search",
        method="POST",
        stac_io=requests,
        limit=profile.page_size,
        collections=list(profile.sensors[sensor].collections),
        bbox=box,
        datetime=f"{rfc3339(since)}/..",
        **condition,
    )
    for page in requests.get_pages(asked.url, asked.method, asked.get_parameters()):
        yield page["features"]


def rfc3339(moment: datetime) -> str:
    """Return a moment as catalogues write it, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
