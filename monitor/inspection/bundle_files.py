"""An evidence bundle as a file or a folder: what the name's ending says."""

import base64
import errno
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from monitor.errors import NotFound
from monitor.inspection.bundle import Bundle

FORMS: Final = (".json", ".html", ".pdf", ".zip")
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can say: the same on any day."""


def content(bundle: Bundle, form: str) -> bytes:
    """Return the bytes of a form."""
    from monitor.inspection.bundle_page import page  # loads matplotlib, which JSON does not need
    from monitor.inspection.bundle_pdf import pdf

    made: Mapping[str, Callable[[Bundle], bytes]] = {".html": page, ".pdf": pdf, ".zip": _zipped}
    return made[form](bundle) if form in made else bundle.json


def write(bundle: Bundle, path: Path) -> list[Path]:
    """Write a bundle and return the files: one by its ending, all of them into a folder.

    Raises:
        NotFound: the ending is none of FORMS and no folder, or the place cannot be written.
    """
    form = path.suffix.lower()
    try:
        if path.is_dir() or not form:
            files = {path / name: made for name, made in _files(bundle).items()}
        elif form in FORMS:
            files = {path: content(bundle, form)}
        else:
            raise NotFound(f"{path}: a bundle is a {', '.join(FORMS)} or a folder")
        for place, made in files.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(made)
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or errno.EIO) if isinstance(error, OSError) else str(error)
        raise NotFound(f"{path} cannot be written: {why}") from error
    return list(files)


def _files(bundle: Bundle) -> dict[str, bytes]:
    from monitor.inspection.bundle_page import curve

    pictures = {
        f"pictures/{one['role']}-{one['composite']}.png": base64.b64decode(one["png_base64"])
        for one in bundle.document["pictures"]
        if one["missing"] is None
    }
    forms = {f"bundle{form}": content(bundle, form) for form in (".json", ".html", ".pdf")}
    return {**forms, "curve.svg": curve(bundle), **pictures}


def _zipped(bundle: Bundle) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, made in sorted(_files(bundle).items()):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, made)
    return file.getvalue()
