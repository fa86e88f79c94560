"""`parcelwatch stack status`: addresses for other programs."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from devstack import commands


@pytest.mark.parametrize("is_up", [True, False])
def test_the_address_alone_is_on_standard_output(is_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = "postgresql://parcelwatch:secret@127.0.0.1:5432/parcelwatch"
    kind = next(iter(commands._KINDS))
    found = SimpleNamespace(
        stack=SimpleNamespace(dsn=dsn) if is_up else None, database=None, broker=None, kind=kind, home="here"
    )
    monkeypatch.setattr("devstack.stack.status", lambda _home: found)
    result = CliRunner().invoke(commands.app, ["status", "--dsn"])
    assert result.stdout == (f"{dsn}\n" if is_up else "")
    assert result.exit_code == (0 if is_up else 1)
