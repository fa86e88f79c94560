"""Where recorded data lie: one rule for every command, file and benchmark.

A folder is taken as given where there is such a folder; else it is a name in the folder of PARCELWATCH_DATA; without one it is
the kind's own name there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from research.experiments.schemes import ExperimentError

FOLDERS: Final = {"nl": "nl-noordoostpolder-2023", "fr": "fr-worldcereal-2023", "patches": "be-flanders-patches"}
"""Names of the project's own data, by kind of source."""
DEFAULT: Final = "../shared/data"


def data_folder(kind: str, given: Path | None = None) -> Path:
    """Return the folder of a kind of source.

    Raises:
        ExperimentError: there is no such folder, here or in PARCELWATCH_DATA, or the kind has none of its own.
    """
    root = Path(os.environ.get("PARCELWATCH_DATA") or DEFAULT)
    if given is None and kind not in FOLDERS:
        raise ExperimentError(f"source {kind}: name its folder")
    here = given or root / FOLDERS[kind]
    for folder in (here, root / here):
        if folder.is_dir():
            return folder
    if given is None:
        raise ExperimentError(
            f"{here}: no such folder; set PARCELWATCH_DATA to the folder that holds {here.name}, or name its folder"
        )
    raise ExperimentError(f"{given}: no such folder, neither here nor in PARCELWATCH_DATA ({root})")
