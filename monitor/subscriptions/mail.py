"""E-mails: text and HTML, one recipient each, with a Message-ID that is made of the delivery's key."""

import contextlib
import re
import smtplib
import ssl
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from monitor.subscriptions import rendering
from monitor.subscriptions.deadline import limited
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered, RefusedForGood, Unsendable
from monitor.subscriptions.rendering import Message
from monitor.subscriptions.settings import DeliverySettings

_ADDRESS: Final = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
    re.IGNORECASE | re.ASCII,
)
"""A dot-atom and a host (RFC 5322, 3.4.1): no comments, no quotes, no addresses in brackets; a host of other letters as xn--."""
_POLICY: Final = re.compile(r"\b5\.7\.\d")
"""Enhanced codes of the server's rules (RFC 3463): they speak of who sends, not of the recipient."""


def checked_address(address: str) -> str:
    """Return an e-mail address.

    Raises:
        InvalidSubscription: it is none, or more than one.
    """
    if not _ADDRESS.fullmatch(address) or len(address) > 254 or not address.isprintable():
        raise InvalidSubscription("an e-mail address is NAME@HOST, one of them")
    return address


def email(to: str, message: Message, sender: str) -> EmailMessage:
    """Return a message as an e-mail."""
    made = EmailMessage(policy=SMTP)
    made["From"], made["To"] = sender, to
    # A name that looks like an encoded word (RFC 2047) would be decoded here, and line breaks in it be written as such.
    made["Subject"] = rendering.subject(message).replace("=?", "= ?")
    made["Date"] = format_datetime(message.formed_at)
    made["Message-ID"] = f"<{message.key}@{sender.rpartition('@')[2] or 'localhost'}>"
    made["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers of absent people
    made.set_content(rendering.text(message))
    made.add_alternative(rendering.page(message), subtype="html")
    return made


def send(to: str, message: Message, settings: DeliverySettings) -> None:
    """Hand an e-mail to the mail server.

    Raises:
        NotDelivered: the server did not take it; Unsendable where it never will, RefusedForGood where there is no such recipient.
    """
    if settings.smtp_host is None:
        raise NotDelivered("no mail server is set: PARCELWATCH_DELIVERIES_SMTP_HOST")
    try:
        _send(email(to, message, settings.sender), settings)
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        line = _line(code, said)
        if 500 <= code < 600 and not _POLICY.search(line):
            raise RefusedForGood(f"the mail server refused the recipient: {line}") from error
        raise NotDelivered(f"the mail server did not take the recipient: {line}") from error
    except smtplib.SMTPDataError as error:
        kind = Unsendable if 500 <= error.smtp_code < 600 else NotDelivered
        raise kind(f"the mail server refused the message: {_line(error.smtp_code, error.smtp_error)}") from error
    except smtplib.SMTPResponseException as error:
        raise NotDelivered(f"the mail server said {_line(error.smtp_code, error.smtp_error)}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from error


def _send(made: EmailMessage, settings: DeliverySettings) -> None:
    context = ssl.create_default_context(cafile=settings.ca_file)
    name = settings.sender.rpartition("@")[2] or "localhost"
    # The timer counts from the greeting on: only then is there a socket. Before it, each read has its own time-out.
    client = (
        smtplib.SMTP_SSL(
            settings.smtp_host or "", settings.smtp_port, name, timeout=settings.timeout_s, context=context
        )
        if settings.smtp_security == "tls"
        else smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, name, settings.timeout_s)
    )
    try:
        with limited(settings.timeout_s, lambda: client.sock):
            if settings.smtp_security == "starttls":
                client.starttls(context=context)
            if settings.smtp_user is not None:
                password = settings.smtp_password
                client.login(settings.smtp_user, password.get_secret_value() if password else "")
            client.send_message(made)
        with contextlib.suppress(smtplib.SMTPException, OSError):  # it has the message: how it parts does not matter
            client.quit()
    finally:
        client.close()


def _line(code: int, said: bytes | str) -> str:
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return f"{code} {' '.join(text.split())}"[:300]
