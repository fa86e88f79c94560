"""Errors of parcel files."""

from ingest.errors import IngestError
from terminal.output import printable


class ParcelFileError(IngestError):
    """A parcel file cannot be imported as asked; nothing was written, the message says what to change."""

    def __init__(self, message: str) -> None:
        """Take the message; what a file says in it is made printable."""
        super().__init__(printable(message))
