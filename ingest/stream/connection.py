"""Connections to the broker: the options that every client shares, and its errors in one line.

A broker that is away is waited for (BrokerUnavailable); one that answers and refuses is not (BrokerRefuses).
"""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from kafka import errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from ingest.errors import BrokerRefuses, BrokerUnavailable
from ingest.stream.settings import KafkaSettings

CONNECT_MS: Final = 5_000
"""Longest wait for a broker: one that is up answers in milliseconds, one that is away is tried again by the caller."""
_SETTING: Final = "PARCELWATCH_KAFKA_"
_REFUSALS: Final = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.UnsupportedCodecError,
    errors.InconsistentGroupProtocolError,
    errors.FencedInstanceIdError,
    ssl.SSLCertVerificationError,
)


def client_options(bootstrap: str) -> dict[str, Any]:
    """Return what every client of the broker is made with: its address, and who we are from the environment."""
    given = KafkaSettings()
    options: dict[str, Any] = {"bootstrap_servers": bootstrap.split(","), "bootstrap_timeout_ms": CONNECT_MS}
    if given.security_protocol == "PLAINTEXT":
        return options
    options["security_protocol"] = given.security_protocol
    if given.security_protocol.startswith("SASL"):
        if given.sasl_username is None or given.sasl_password is None:
            raise BrokerRefuses(
                f"broker: {given.security_protocol} needs {_SETTING}SASL_USERNAME and ..._SASL_PASSWORD"
            )
        options["sasl_mechanism"] = given.sasl_mechanism
        options["sasl_plain_username"] = given.sasl_username
        options["sasl_plain_password"] = given.sasl_password.get_secret_value()
    if given.security_protocol.endswith("SSL"):
        for name in ("ca_file", "cert_file", "key_file"):
            path = getattr(given, name)
            if path is not None and not path.is_file():
                raise BrokerRefuses(f"broker: {_SETTING}{name.upper()}: no file {path}")
            options[f"ssl_{name.replace('_', '')}"] = None if path is None else str(path)
        options["ssl_password"] = None if given.key_password is None else given.key_password.get_secret_value()
        options["ssl_check_hostname"] = given.check_hostname
    return options


def group_options(group_id: str | None, member: str | None, session_s: float) -> dict[str, Any]:
    """Return the options of a member of a group; none without a group.

    Cooperative: who keeps a partition reads on while the group is being rebalanced.
    """
    if group_id is None:
        return {"group_id": None}
    return {
        "group_id": group_id,
        "group_instance_id": member,
        "session_timeout_ms": int(session_s * 1000),
        "heartbeat_interval_ms": int(session_s * 1000) // 5,
        "partition_assignment_strategy": [CooperativeStickyAssignor],
    }


@contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Kafka's errors in one line: as BrokerRefuses where waiting does not help, else as BrokerUnavailable."""
    try:
        yield
    except _REFUSALS as error:
        raise BrokerRefuses(f"broker: {doing}: {refusal(error)}") from error
    except (errors.KafkaError, OSError) as error:
        shown = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise BrokerUnavailable(f"broker: {doing}: {shown}; is it up? (parcelwatch stack status)") from error


@contextmanager
def connecting(bootstrap: str) -> Iterator[None]:
    """Errors of making a client: where the broker answers but not to us, what it wants is said."""
    require_broker(bootstrap)
    try:
        with broker_errors(f"no answer at {bootstrap}"):
            yield
    except BrokerUnavailable as error:
        if wanted := _wanted(bootstrap):
            raise BrokerRefuses(f"broker: {bootstrap} {wanted}") from error
        raise


def is_refusal(error: BaseException) -> bool:
    """Return whether an error of the broker means that a right or a setting lacks."""
    return isinstance(error, _REFUSALS)


def refusal(error: BaseException) -> str:
    """Return which right or setting lacks, and where to set it."""
    named = error.args[0] if error.args else ""  # a topic or group, or a set of topics
    about = ", ".join(sorted(map(str, named))) if isinstance(named, set | frozenset) else str(named)
    said = (str(error) or type(error).__name__).splitlines()[0][:200]
    match error:
        case errors.TopicAuthorizationFailedError():
            return f"access to topic {about or said} is denied; grant this user Read (consumers) or Write (producers) on it"
        case errors.GroupAuthorizationFailedError():
            return f"access to consumer group {about or said} is denied; grant this user Read on the group, or use another --group"
        case errors.AuthorizationError():
            return f"access is denied ({said}); grant this user the right"
        case errors.UnsupportedCodecError():
            return (
                f"{named}: have the producers use gzip, snappy, lz4, zstd or none; "
                "run once with --accept-gap to make the batch a dead letter and go on"
            )
        case errors.InconsistentGroupProtocolError():
            return "members of the group use another way of assignment; stop the older ones, or use another --group"
        case errors.FencedInstanceIdError():
            return "another process runs under the same --member name; give each a name of its own"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({said}); set {_SETTING}CA_FILE"
        case _:
            return f"{said}; check {_SETTING}SASL_MECHANISM, ..._SASL_USERNAME and ..._SASL_PASSWORD"


def require_broker(bootstrap: str) -> None:
    """Raise BrokerUnavailable unless one of the addresses accepts a connection.

    Asked before each client is made: kafka-python's clients try an address that refuses them for seconds, and leave
    their sockets open.
    """
    for host, port in _addresses(bootstrap):
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_MS / 1000).close()
        except (OSError, ValueError) as error:
            shown = error
        else:
            return
    raise BrokerUnavailable(f"broker: no answer at {bootstrap}: {shown}; is it up? (parcelwatch stack status)")


def _addresses(bootstrap: str) -> Iterator[tuple[str, str]]:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        yield host.strip("[]"), port


def _wanted(bootstrap: str) -> str | None:
    """Return what the broker wants that our settings do not say; None where they agree or nothing can be found out."""
    given = KafkaSettings().security_protocol
    for host, port in _addresses(bootstrap):
        is_tls = _speaks_tls(host, int(port))
        mechanisms = _mechanisms(host, int(port), is_tls)
        if mechanisms is None and not is_tls:
            continue
        wanted = f"SASL_{'SSL' if is_tls else 'PLAINTEXT'}" if mechanisms else "SSL" if is_tls else "PLAINTEXT"
        if wanted == given:
            return _why_not(host, int(port), is_tls, bool(mechanisms))
        sasl = f" with SASL ({', '.join(mechanisms)})" if mechanisms else ""
        return (
            f"{'wants TLS' if is_tls else 'wants no TLS'}{sasl}: "
            f"set {_SETTING}SECURITY_PROTOCOL={wanted}{' and ..._SASL_USERNAME, ..._SASL_PASSWORD' if sasl else ''}"
        )
    return None


def _why_not(host: str, port: int, is_tls: bool, is_sasl: bool) -> str | None:
    """Return why a listener that wants what we do still did not take us; None where nothing can be found out."""
    given = KafkaSettings()
    if is_tls:
        context = ssl.create_default_context(cafile=None if given.ca_file is None else str(given.ca_file))
        context.check_hostname = given.check_hostname
        try:
            with socket.create_connection((host, port), timeout=CONNECT_MS / 1000) as plain:
                context.wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            return f"is not who its certificate says ({error.verify_message}): set {_SETTING}CA_FILE to who signed it"
        except OSError:
            return None
    if is_sasl:
        return f"takes no login of {given.sasl_username!r}: check {_SETTING}SASL_USERNAME, ..._SASL_PASSWORD and ..._SASL_MECHANISM"
    return None


def _connection(host: str, port: int, is_tls: bool) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=CONNECT_MS / 1000)
    if not is_tls:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said over it, only asked
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise


def _speaks_tls(host: str, port: int) -> bool:
    with suppress(OSError), _connection(host, port, True):
        return True
    return False


def _mechanisms(host: str, port: int, is_tls: bool) -> list[str] | None:
    """Return the SASL mechanisms of a listener, none where it wants no SASL; None where it does not answer.

    Asked by a handshake (SaslHandshake, version 1) for a mechanism that does not exist.
    """
    body = struct.pack(">hhihh4s", 17, 1, 1, -1, 4, b"NONE")
    with suppress(OSError, struct.error), _connection(host, port, is_tls) as link:
        link.sendall(struct.pack(">i", len(body)) + body)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + struct.unpack(">i", answer[:4])[0]:
            if not (more := link.recv(65_536)):
                return None
            answer += more
        (count,), place, found = struct.unpack_from(">i", answer, 10), 14, []
        for _ in range(min(count, 20)):
            (size,) = struct.unpack_from(">h", answer, place)
            found.append(answer[place + 2 : place + 2 + size].decode("ascii", "replace"))
            place += 2 + size
        return found
    return None
