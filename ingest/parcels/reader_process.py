"""The process that reads a parcel file (`ingest.parcels.reader`), seen from the importer: asked, timed, ended."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import IO, Any, Final

import pyarrow as pa

from ingest.parcels.errors import ParcelFileError
from ingest.parcels.reader import ERROR, RETRY, environment

BATCH_PARCELS: Final = 8192
"""Features per batch: some 10 MB of vertices, chosen because larger batches read no faster."""
MAX_SILENT_S: Final = 120.0
"""Seconds for one answer of the reading process (chosen as 100 times what 8192 features take)."""


def described(request: Mapping[str, object]) -> dict[str, Any]:
    """Return the answer of the reading process; started again where its GDAL has drivers that nobody named."""
    for attempt in (1, 2):
        try:
            with reading(request) as (answer, silence):
                silence.begin()
                found: dict[str, Any] = json.loads(answer.read() or b"null")
            return found
        except ParcelFileError as error:
            if attempt == 2 or not str(error).startswith(RETRY):
                raise
            _drivers_left_out.append(str(error).removeprefix(RETRY))
    raise AssertionError("the second attempt returns or raises")


class Silence:
    """Ends a process that does not answer in time."""

    def __init__(self, process: "Popen[bytes]") -> None:
        self._process, self._timer, self.is_over = process, threading.Timer(0, lambda: None), False

    def begin(self) -> None:
        """Begin to wait for an answer."""
        self._timer = threading.Timer(MAX_SILENT_S, self._end_process)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """End the wait: the answer is there, or nobody asks for it any more."""
        self._timer.cancel()

    def _end_process(self) -> None:
        self.is_over = True
        self._process.kill()


_drivers_left_out: list[str] = []
"""What this machine's GDAL has beyond the drivers that `ingest.parcels.reader` knows of."""


@contextmanager
def reading(request: Mapping[str, object]) -> Iterator[tuple[IO[bytes], Silence]]:
    """Run the reading process; raises ParcelFileError, without the file's name, where it fails.

    What it writes is only half read where it fails, so errors of reading that come of it are its failure too.
    """
    variables = {**os.environ, **environment(), "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    variables["OGR_SKIP"] = ",".join([variables["OGR_SKIP"], *_drivers_left_out])
    with tempfile.TemporaryFile() as errors:
        process = Popen(
            [sys.executable, "-c", "from ingest.parcels.reader import main; main()"],
            env=variables,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
        )
        silence = Silence(process)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as asked:
                asked.write(json.dumps(request).encode())
            yield process.stdout, silence
            process.wait()
            if process.returncode:
                raise EOFError
        except (EOFError, ValueError, BrokenPipeError, pa.ArrowException, OSError) as error:
            process.kill()
            raise ParcelFileError(_failure(process, silence, errors)) from error
        finally:
            silence.end()
            process.kill()
            process.wait()
            process.stdout.close()


def _failure(process: "Popen[bytes]", silence: Silence, errors: IO[bytes]) -> str:
    process.wait()
    if silence.is_over:
        return f"damaged: it took more than {MAX_SILENT_S:.0f} s to read {BATCH_PARCELS:,} parcels of it"
    errors.seek(0)
    lines = errors.read()[-100_000:].decode(errors="replace").splitlines()
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return said[-1][:500] if said else "damaged: what reads such files came to an end on it"
