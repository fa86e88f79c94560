"""The API's page: its examples run as they stand, with curl against a real server, and find something."""

import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import uvicorn
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from db.connect import bounded_engine
from parcelwatch import app
from web.app import create_app
from web.settings import WebSettings

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def login(dsn: str) -> Iterator[str]:
    """The connection string of a login made as the page says, under a name of its own: logins are the server's."""
    (statements,) = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(statements.replace("parcelwatch_server", name).encode())
        yield make_conninfo(dsn, user=name, password="its own")
        owner.execute(f"drop role {name}".encode())


@pytest.fixture
def port(dsn: str, login: str) -> Iterator[int]:
    """The port of a server whose store has the page's parcel."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update parcels set collection = 'nl-brp', source_id = case source_id when 'north-1' then '10984' else 'x' end"
        )
        connection.execute("update crop_progress set collection = 'nl-brp'")
    engine = bounded_engine(login, 2, 10.0)
    server = uvicorn.Server(uvicorn.Config(create_app(engine, WebSettings()), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()
    engine.dispose()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: the page's examples are not tried")
def test_every_example_of_the_page_works(dsn: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = [line for line in re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines() if line and line[0] != "#"]
    serve, *access, key = (command for command in commands if command.startswith("parcelwatch "))
    assert serve.split()[1] == "serve"
    for command in access:
        _run(command)
    monkeypatch.setenv("KEY", _run(key))
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select parcel_key from parcels where source_id = '10984'").fetchone()
    assert found is not None
    for command in commands[3:]:
        assert command.startswith("curl "), command
        here = command.replace(ADDRESS, f"http://127.0.0.1:{port}").replace("/parcels/12", f"/parcels/{found[0]}")
        answer = _curl(here.removeprefix("curl "))
        for nothing in (b'"rows":[]', b'"features":[]', b'"regions":[]'):
            assert nothing not in answer, command
        if command.endswith('format=csv"'):
            assert len(answer.splitlines()) > 1, command
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "api.md", "exec"), {})  # the page is ours


def _run(command: str) -> str:
    """Return what a command of the page prints."""
    ran = CliRunner().invoke(app, command.split("#")[0].split()[1:], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout.strip()


def _curl(options: str) -> bytes:
    """Return what curl is answered, or what it wrote; an answer that is an error fails."""
    ran = subprocess.run(
        ["bash", "-c", f"curl --fail-with-body --noproxy '*' {options}"], capture_output=True, timeout=30, check=False
    )
    assert ran.returncode == 0, (options, ran.stdout)
    written = re.search(r" -o (\S+)", options)
    answer = Path(written[1]).read_bytes() if written else ran.stdout
    assert answer, options
    return answer
