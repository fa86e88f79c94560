"""The scripts around `make`: quiet while things go well, whole where they do not, nothing large left behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / ".ci"
MAKE = """#!/bin/sh
mkdir -p .venv && touch .venv/large
echo "1 failed"
echo "=========== 1 failed, 2 passed in 3.21s ==========="
echo "make: *** [Makefile:29: test] Error 1" >&2
exit 2
"""


def quietly(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "quietly"), "setup.log", "installing", "sh", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_what_goes_well_is_one_line(tmp_path: Path) -> None:
    done = quietly(tmp_path, "echo WARNING: old; echo noise >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "installing (log: setup.log)\n", "")
    assert (tmp_path / "setup.log").read_text() == "WARNING: old\nnoise\n"


def test_what_fails_is_shown_whole(tmp_path: Path) -> None:
    done = quietly(tmp_path, "echo WARNING: old; echo ERROR: no such package >&2; exit 3")
    assert done.returncode == 3
    assert done.stderr == (
        "WARNING: old\nERROR: no such package\ninstalling failed; the lines above are in setup.log\n"
    )


@pytest.mark.parametrize("was_there", [False, True])
def test_ci_removes_the_environment_that_it_made_and_ends_with_what_the_tests_said(
    tmp_path: Path, was_there: bool
) -> None:
    shutil.copytree(SCRIPTS, tmp_path / ".ci")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text(MAKE)
    (tmp_path / "bin/make").chmod(0o755)
    if was_there:
        (tmp_path / ".venv").mkdir()
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(tmp_path / ".ci/run")], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "=========== 1 failed, 2 passed in 3.21s ==========="
    assert (tmp_path / ".venv").exists() == was_there
