"""The pull subscription of the Copernicus Data Space: a queue of notifications, acknowledged after our own commit.

    read up to 20 ──► name of the product ──► its STAC item ──► publish (commit) ──► acknowledge the last one
                      (gone after three days: asked by id)

Acknowledging one notification acknowledges all before it, so the first whose item is not in the STAC catalogue yet ends
a pull. One that waits for a day is published as the SAFE that it is: the ledger then shows it, and why it is not cut.

Source: documentation.dataspace.copernicus.eu/APIs/Subscriptions.html and Token.html; announcement of 24 June 2025
(SubscriptionType is required); creodias.docs.cloudferro.com, pull subscriptions (reading is not destructive).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, quote_plus

from db.sensors import Sensor
from ingest.errors import IngestError
from ingest.imagery.sensors import IMAGERY
from ingest.scenes.catalogue import Box
from ingest.scenes.http_retries import Bearer, Http, SourceRefused, SourceUnavailable
from ingest.scenes.items import NotAScene, scene_of_item, sensor_of
from ingest.scenes.polling import Outcome, Publish, Rejections
from ingest.scenes.profiles import CatalogueProfile
from ingest.scenes.record import FoundScene

ODATA: Final = "https://catalogue.dataspace.copernicus.eu/odata/v1"
TOKENS: Final = "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token"
TOKEN, USER, PASSWORD = "PARCELWATCH_CDSE_TOKEN", "PARCELWATCH_CDSE_USER", "PARCELWATCH_CDSE_PASSWORD"
SOURCE: Final = "cdse"
_AT_ONCE: Final = 20
"""Most that a read gives."""
_LONGEST_WAIT: Final = timedelta(days=1)
"""For a STAC item (chosen as far more than the minutes it takes, and less than the three days a queue keeps names)."""
_LEAST_LEFT_S: Final = 60.0
"""Of a token that is valid for ten minutes: renewed before."""
_ID: Final = re.compile(r"[0-9a-fA-F-]{36}")


class NoCredentials(IngestError):
    """The environment holds no way to a token: set it."""


class Credentials:
    """Tokens of the Data Space: one given, or got with user and password and renewed before it ends.

    Raises NoCredentials.
    """

    def __init__(
        self, environment: Mapping[str, str], http: Http, now: Callable[[], datetime], address: str = TOKENS
    ) -> None:
        self._http, self._now, self._address = http, now, address
        self._given, self._user, self._password = (environment.get(name, "") for name in (TOKEN, USER, PASSWORD))
        if not self._given and not (self._user and self._password):
            raise NoCredentials(
                f"no access to the Data Space: set {USER} and {PASSWORD}, or {TOKEN}, in the environment"
            )
        self._hide(self._given, self._password)
        self._token, self._until = self._given, None if self._given else now()

    def bearer(self) -> Bearer:
        """Return a token that is good for the next request. Raises SourceUnavailable, SourceRefused."""
        if self._until is not None and (self._until - self._now()).total_seconds() < _LEAST_LEFT_S:
            self.renew()
        return Bearer(self._token)

    def renew(self) -> bool:
        """Get a new token; False where only a token was given."""
        if not (self._user and self._password):
            return False
        form = {
            "client_id": "cdse-public",
            "grant_type": "password",
            "username": self._user,
            "password": self._password,
        }
        answer = self._http.json("POST", self._address, form=form)
        try:
            self._token = str(answer["access_token"])
            self._until = self._now() + timedelta(seconds=float(answer["expires_in"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SourceUnavailable(f"{SOURCE}: the answer to user and password holds no token") from error
        self._hide(self._token)
        return True

    def _hide(self, *secrets: str) -> None:
        """Keep them out of messages, as they are and as forms write them."""
        self._http.secrets += [written for secret in secrets if secret for written in (secret, quote_plus(secret))]


@dataclass(frozen=True, slots=True)
class Pull:
    """What a pull came to."""

    outcome: Outcome
    waiting: Rejections
    """Notifications left in the queue because the catalogue has no item for the first of them yet (0 or 1 counted)."""
    left: int | None
    """Length of the queue after the last acknowledgement, as the service says."""


class _NotYet(Exception):
    """The product is not in the STAC catalogue yet."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A pull subscription of the user whose credentials these are."""

    subscription_id: str
    profile: CatalogueProfile
    http: Http
    credentials: Credentials = field(repr=False)
    odata: str = ODATA

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.subscription_id):
            raise IngestError(
                f"{self.subscription_id!r} is no subscription's id (a UUID, as `scenes subscribe` prints)"
            )

    @property
    def source(self) -> str:
        """The name under which failures are kept."""
        return f"{SOURCE}:{self.subscription_id}"

    def pull(self, now: datetime, publish: Publish) -> Pull:
        """Publish and acknowledge until the queue is empty or waits. Raises IngestError; nothing is lost then."""
        new, known, rejected, waiting, left = 0, 0, Rejections(), Rejections(), None
        last = None
        while not waiting.count and (notifications := self._read()):
            found: list[FoundScene] = []
            acknowledged = None
            for notification in notifications:
                try:
                    found.append(self._scene(notification, now))
                except _NotYet as error:
                    waiting = waiting.also(str(error))
                    break
                except NotAScene as error:
                    rejected = rejected.also(str(error))
                acknowledged = str(notification["AckId"])
            if found:
                counted = publish(found)
                new, known = new + counted.new, known + counted.known
            if acknowledged is None:
                break
            if acknowledged == last:
                raise SourceUnavailable(f"{SOURCE}: what is acknowledged comes again; the queue does not move")
            left, last = self._acknowledge(acknowledged), acknowledged
        return Pull(Outcome(self.source, new, known, rejected), waiting, left)

    def _read(self) -> list[Mapping[str, Any]]:
        answer = authorised(self.http, self.credentials, "GET", f"{self._address}/Read?$top={_AT_ONCE}")
        notifications = answer.get("value") if isinstance(answer, dict) else answer
        if not isinstance(notifications, list) or not all(
            isinstance(one, dict) and one.get("AckId") for one in notifications
        ):
            raise SourceUnavailable(f"{SOURCE}: what it read from the queue are no notifications")
        return notifications

    def _acknowledge(self, ack_id: str) -> int | None:
        answer = authorised(
            self.http, self.credentials, "POST", f"{self._address}/Ack?$ackid={quote(ack_id, safe='=')}"
        )
        left = answer.get("CurrentQueueLength") if isinstance(answer, dict) else None
        return left if isinstance(left, int) else None

    @property
    def _address(self) -> str:
        return f"{self.odata}/Subscriptions({self.subscription_id})"

    def _scene(self, notification: Mapping[str, Any], now: datetime) -> FoundScene:
        """Return the scene of a notification. Raises _NotYet, NotAScene."""
        if (event := notification.get("SubscriptionEvent", "created")) != "created":
            raise NotAScene(f"{notification.get('ProductName')}: event {event!r} is none that makes a scene")
        product = self._product(notification)
        name = str(product["Name"]).removesuffix(".SAFE")
        sensor = sensor_of(name)
        if sensor is None or sensor not in self.profile.sensors or IMAGERY[sensor].level not in name:
            raise NotAScene(f"{name}: not among the products of profile {self.profile.name}")
        item = self._item(name, sensor)
        if item is not None:
            reading = self.profile.reading(sensor)
            return scene_of_item(
                item, sensor, reading, source=SOURCE, profile=self.profile.name, place=self.profile.api, found_at=now
            )
        path = str(product.get("S3Path") or "")
        if now - _moment(notification) < _LONGEST_WAIT or not path:
            raise _NotYet(f"{name}: not in the STAC catalogue yet")
        return FoundScene(name, sensor, SOURCE, "safe", f"s3://{path.lstrip('/')}", None, None, now)

    def _product(self, notification: Mapping[str, Any]) -> Mapping[str, Any]:
        """Name and path of the product; after three days the queue has only its id, and the catalogue is asked."""
        value = notification.get("value")
        if isinstance(value, dict) and value.get("Name"):
            return value
        if name := notification.get("ProductName"):
            return {"Name": name}
        product_id = str(notification.get("ProductId"))
        if not _ID.fullmatch(product_id):
            raise NotAScene(f"notification of {notification.get('NotificationDate')}: no product is named")
        try:
            found = self.http.json("GET", f"{self.odata}/Products({product_id})")
        except SourceRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise NotAScene(f"product {product_id}: the catalogue does not have it any more") from error
        if not isinstance(found, dict) or not found.get("Name"):
            raise NotAScene(f"product {product_id}: the catalogue does not say its name")
        return found

    def _item(self, name: str, sensor: Sensor) -> Mapping[str, Any] | None:
        for collection in self.profile.sensors[sensor].collections:
            try:
                item: Mapping[str, Any] = self.http.json(
                    "GET", f"{self.profile.api}/collections/{collection}/items/{quote(name)}"
                )
            except SourceRefused as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                return item
        return None


def authorised(http: Http, credentials: Credentials, method: str, url: str, body: Any = None) -> Any:
    """Return the answer to a request with a token, which is renewed once where it is refused. Raises IngestError."""
    bearer = credentials.bearer()
    try:
        return http.json(method, url, auth=bearer, body=body)
    except SourceRefused as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        if not credentials.renew():
            raise SourceRefused(
                f"{error}; tokens live ten minutes: set {USER} and {PASSWORD} to have them renewed", error.status
            ) from None
    return http.json(method, url, auth=credentials.bearer(), body=body)


def subscribe(http: Http, credentials: Credentials, box: Box, odata: str = ODATA) -> str:
    """Make a pull subscription to Sentinel-2 L2A over a box, and give its id. Raises IngestError."""
    west, south, east, north = (f"{side:g}" for side in box)
    ring = f"{west} {south},{east} {south},{east} {north},{west} {north},{west} {south}"
    condition = (
        "Collection/Name eq 'SENTINEL-2' and Attributes/OData.CSC.StringAttribute/any(att:att/Name eq 'productType' "
        "and att/OData.CSC.StringAttribute/Value eq 'S2MSI2A') "
        f"and OData.CSC.Intersects(area=geography'SRID=4326;POLYGON(({ring}))')"
    )
    answer = authorised(
        http,
        credentials,
        "POST",
        f"{odata}/Subscriptions",
        {
            "FilterParam": condition,
            "SubscriptionType": "pull",
            "SubscriptionEvent": ["created"],
            "Status": "running",
            "StageOrder": True,
            "Priority": 1,
        },
    )
    if not isinstance(answer, dict) or not answer.get("Id"):
        raise SourceUnavailable(f"{SOURCE}: its answer names no subscription")
    return str(answer["Id"])


def _moment(notification: Mapping[str, Any]) -> datetime:
    """Return when the notification was made. Raises NotAScene."""
    try:
        moment = datetime.fromisoformat(str(notification.get("NotificationDate")))
        if moment.tzinfo is not None:
            return moment
    except ValueError:
        pass
    raise NotAScene(f"{notification.get('ProductName')}: NotificationDate is no time")
