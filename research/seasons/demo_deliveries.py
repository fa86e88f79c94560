"""A subscription in the demonstration: a receiver on this machine gets the season's red alerts by a signed webhook."""

import threading
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any, Final, Self

from standardwebhooks import Webhook, WebhookVerificationError

from db import subscriptions
from db.connect import engine
from db.subscriptions import Subscription
from monitor.subscriptions import asked
from monitor.subscriptions.sender import Sent, send_all
from monitor.subscriptions.settings import DeliverySettings

NAME: Final = "demonstration"


class Receiver:
    """A receiver of webhooks on a port of the loopback; counts messages by their key."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        """Messages whose signature held, by their key."""
        self.refused = 0
        self._secret = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        loopback: Any = ip_network("127.0.0.0/8")
        self._settings = DeliverySettings(webhook_hosts=["127.0.0.1"], private_networks=[loopback])

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def subscribe(self, dsn: str, now: datetime) -> None:
        """Subscribe to red alerts that are opened, confirmed or opened again from now on."""
        address, secrets = asked.reached("webhook", f"http://127.0.0.1:{self._server.server_port}/", self._settings)
        wanted = Subscription(
            name=NAME, channel="webhook", address=address, events=list(asked.OF_DEPARTURES), colours=["red"]
        )
        asked.check(wanted)
        assert secrets.signing is not None
        self._secret = secrets.signing
        with engine(dsn).begin() as connection:
            subscriptions.add(connection, wanted, secrets, "the demonstration", now)

    def deliver(self, dsn: str) -> Sent:
        """Send what waits in the outbox, as `deliveries run` does."""
        return send_all(dsn, self._settings, lambda: datetime.now(UTC))

    def receive(self, headers: dict[str, str], body: bytes) -> bool:
        """Count a message; return whether its signature holds."""
        try:
            Webhook(self._secret).verify(body, headers)
        except WebhookVerificationError:
            self.refused += 1
            return False
        self.messages[headers["webhook-id"]] += 1
        return True


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_right = receiver.receive({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(204 if is_right else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing: the receiver counts."""

    return Handler
