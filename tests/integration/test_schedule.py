"""One leader, and a monitor that ends when it is told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from db.leader import Leadership

ROOT = Path(__file__).parents[2]


def takes_over(leader: Leadership) -> bool:
    """Says whether the lead can be had within seconds: the server lets go of a closed connection's locks a moment later."""
    deadline = time.monotonic() + 10
    while not leader.is_held() and time.monotonic() < deadline:
        time.sleep(0.05)
    return leader.is_held()


def test_one_leads_and_another_takes_over(dsn: str) -> None:
    first, second = Leadership(dsn), Leadership(dsn)
    assert first.is_held()
    assert first.is_held()
    assert not second.is_held()
    first.release()
    assert takes_over(second)
    second.release()


def test_the_lead_goes_with_the_connection(dsn: str) -> None:
    first, second = Leadership(dsn), Leadership(dsn)
    assert first.is_held()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
        )
    assert takes_over(second)
    second.release()
    first.release()


def test_monitor_run_ends_on_sigterm(dsn: str) -> None:
    environment = os.environ | {"PARCELWATCH_DSN": dsn, "PARCELWATCH_MONITOR_INTERVAL_S": "0.2"}
    code = "from parcelwatch import main; main()"
    command = [sys.executable, "-c", code, "monitor", "run"]
    leader = Leadership(dsn)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while leader.is_held() and time.monotonic() < deadline:  # until the process has taken the lead
            leader.release()
            time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Traceback" not in told
    assert takes_over(leader)
    leader.release()
