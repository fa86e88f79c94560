"""A mail server and a receiver of webhooks for the tests, as processes of their own that can be killed.

    python -m tests.receivers smtp|http PORT FILE [CERTIFICATE KEY]

Each appends a JSON line to FILE for what it accepted, flushed to the disk before it answers: what is in the file was received.
With a certificate they speak TLS: HTTPS, and SMTP after STARTTLS, which also asks for a login.
"""

import asyncio
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from devstack.process import free_port

ROOT: Final = Path(__file__).parents[1]
PAUSE_S: Final = float(os.environ.get("RECEIVER_PAUSE_S", "0"))
"""At most so long between accepting and answering: where a kill, or a sender's death, leaves a message that is sent again."""
LOGIN: Final = (b"parcelwatch", b"secret")


def keep(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a file and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def kept(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a line that a kill cut short was never answered."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]


class Mailbox:
    """Accepts e-mails; recipients at `refused.test` do not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Accept a recipient, or refuse it for good."""
        if address.endswith("@refused.test"):
            return "550 5.1.1 no such user"
        if address.endswith("@busy.test"):
            return "450 4.2.1 try again later"
        if address.endswith("@policy.test"):
            return "554 5.7.1 relay access denied"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep an e-mail."""
        assert isinstance(envelope.content, bytes)
        made = message_from_bytes(envelope.content, policy=policy.default)
        html = made.get_body(("html",))
        text = made.get_body(("plain",))
        assert html is not None
        assert text is not None
        record = {
            "key": str(made["Message-ID"]),
            "to": envelope.rcpt_tos,
            "subject": str(made["Subject"]),
            "headers": [name for name, _ in made.items()],
            "text": text.get_content(),
            "html": html.get_content(),
        }
        keep(self.path, record)
        await asyncio.sleep(random.random() * PAUSE_S)
        return "250 kept"


class Receiver(BaseHTTPRequestHandler):
    """Accepts webhooks; answers with the status of the last part of the path where that is a number."""

    path_of_records: Path

    def do_POST(self) -> None:
        """Keep a webhook."""
        body = self.rfile.read(int(self.headers["content-length"]))
        last = self.path.rpartition("/")[2]
        status = int(last) if last.isdigit() else 204
        record = {
            "key": self.headers["webhook-id"],
            "headers": dict(self.headers),
            "body": body.decode(),
            "path": self.path,
        }
        if status < 300:
            keep(self.path_of_records, record)
            time.sleep(random.random() * PAUSE_S)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", "/elsewhere")
        if status == 429:
            self.send_header("retry-after", "3600")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def may_log_in(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any) -> AuthResult:
    """Return whether a login is right."""
    return AuthResult(success=(given.login, given.password) == LOGIN, handled=False)


def serve(kind: str, port: int, path: Path, *certificate: str) -> None:
    """Serve until killed."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    if kind == "http":
        Receiver.path_of_records = path
        server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.serve_forever()
    more: dict[str, Any] = {
        "tls_context": context,
        "require_starttls": True,
        "auth_required": True,
        "authenticator": may_log_in,
    }
    Controller(Mailbox(path), hostname="127.0.0.1", port=port, **(more if context else {})).start()
    asyncio.new_event_loop().run_forever()


def start(kind: str, port: int, path: Path, *certificate: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers."""
    command = [sys.executable, "-m", "tests.receivers", kind, str(port), str(path), *map(str, certificate)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            assert process.poll() is None, "the receiver ended"
            time.sleep(0.1)
    raise AssertionError("the receiver does not answer")


@contextmanager
def running(kind: str, path: Path, *certificate: Path) -> Iterator[int]:
    """Run a server within the context, with a certificate and its key in TLS; yields its port."""
    port = free_port(None)
    process = start(kind, port, path, *certificate)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
