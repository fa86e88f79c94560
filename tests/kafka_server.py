"""An Apache Kafka of the tests: one listener for everybody, one with SASL, one with TLS, and rights that can be denied."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack import folders, kafka, process
from devstack.archive import Progress

USERS = {"reader": "reader-secret"}
_STORE_PASSWORD = "of-a-test"


@dataclass(frozen=True)
class KafkaServer:
    """A broker that runs, and its addresses."""

    folder: Path
    plain: str
    sasl: str
    tls: str
    ca_file: Path
    programs: kafka.Programs
    settings: dict[str, str]

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        found = kafka.find(self.folder)
        assert found is not None
        os.kill(found.pid, 9)
        while process.is_alive(found.pid):
            pass

    def stop(self) -> None:
        """Ends it in order."""
        kafka.stop(self.folder)

    def start(self) -> None:
        """Starts it again on the same port with the same records."""
        port = int(self.plain.rpartition(":")[2])
        kafka.start(self.programs, self.folder, _account(self.folder), port, self.settings)


@contextmanager
def running(progress: Progress) -> Iterator[KafkaServer]:
    """Run a broker within the context. Raises ProvisionError where Java or Maven are missing."""
    is_root = os.geteuid() == 0
    programs = kafka.provision(folders.cache_folder(os.environ, is_root), os.environ, progress)
    home = Path(tempfile.mkdtemp(prefix="parcelwatch-test-kafka-"))
    home.chmod(0o711)
    folder, account = home / "kafka", folders.server_account(is_root)
    store, certificate = _certificate(programs, home)
    sasl, tls = process.free_port(), process.free_port()
    plain_users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
    listeners = f"SASL_PLAINTEXT://127.0.0.1:{sasl},SSL://127.0.0.1:{tls}"
    settings = {
        "listeners": f"{{plain}},{{controller}},{listeners}",
        "advertised.listeners": f"{{plain}},{listeners}",
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL"
        ),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {plain_users};"
        ),
        "ssl.keystore.location": str(store),
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.password": _STORE_PASSWORD,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
        "group.min.session.timeout.ms": "1000",
    }
    try:
        started = kafka.start(programs, folder, account, None, settings)
        yield KafkaServer(
            folder,
            f"127.0.0.1:{started.port}",
            f"127.0.0.1:{sasl}",
            f"127.0.0.1:{tls}",
            certificate,
            programs,
            settings,
        )
    finally:
        kafka.stop(folder)
        shutil.rmtree(home, ignore_errors=True)


def _account(folder: Path) -> folders.Account:
    return folders.owner(folder)


def _certificate(programs: kafka.Programs, home: Path) -> tuple[Path, Path]:
    """A key store for the broker, and its certificate as a file that clients trust."""
    keytool, store = programs.java.with_name("keytool"), home / "broker.p12"
    common = ["-keystore", str(store), "-storepass", _STORE_PASSWORD, "-alias", "broker"]
    pair = ["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-dname", "CN=127.0.0.1", "-storetype", "PKCS12"]
    subprocess.run([keytool, *pair, *common, "-ext", "SAN=IP:127.0.0.1"], check=True, capture_output=True)
    store.chmod(0o644)
    printed = subprocess.run([keytool, "-exportcert", "-rfc", *common], check=True, capture_output=True, text=True)
    certificate = home / "broker.pem"
    certificate.write_text(printed.stdout)
    return store, certificate
