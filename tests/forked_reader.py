"""A reader of parcel files that is forked from a process with its libraries loaded: 10 ms a file, not 400.

Run as `python -m tests.forked_reader`; a line of JSON in (request, out, errors, memory, seconds), one out (code, memory_kb).
"""

import io
import json
import os
import signal
import sys

import pyarrow.parquet  # noqa: F401  # loaded before the fork
import pyogrio  # noqa: F401
import pyproj  # noqa: F401
import shapely  # noqa: F401

from ingest.parcels import reader


def _read(asked: dict[str, str | int]) -> None:
    for path, number in ((asked["out"], 1), (asked["errors"], 2)):
        os.dup2(os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin = io.StringIO(str(asked["request"]))
    reader.MAX_MEMORY = int(asked["memory"])  # type: ignore[misc]
    signal.alarm(int(asked["seconds"]))
    reader.main()
    sys.stdout.flush()


def main() -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _read(json.loads(line))
            finally:
                os._exit(0)
        _, status, used = os.wait4(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "memory_kb": used.ru_maxrss}), flush=True)


if __name__ == "__main__":
    main()
