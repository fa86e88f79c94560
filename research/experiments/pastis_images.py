"""PASTIS and PASTIS-R for networks of pixels: the folder may be named within that of PARCELWATCH_DATA (research.places)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from research.places import data_folder
from training.patch_images import read
from training.patches import PatchSet, PatchSource


class PastisImages(PatchSource):
    """A PASTIS or PASTIS-R folder in patch form."""

    kind: Literal["pastis"] = "pastis"
    path: Path

    def open(self) -> PatchSet:
        """Return the patches; raises PastisError."""
        return read(data_folder(self.kind, self.path))
