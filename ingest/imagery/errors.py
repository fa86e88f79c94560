"""Why a scene could not be cut.

IngestError
└── SceneError      mark the scene with the cause; go on with others; try again where `may_pass`
"""

from typing import Literal

from ingest.errors import IngestError

Cause = Literal[
    "unreadable",
    "bad_metadata",
    "missing_band",
    "unknown_crs",
    "unsupported",
    "empty_scl",
    "implausible",
    "no_parcels",
    "not_allowed",
]
"""What is wrong with a scene as a whole, or (no_parcels) with what was asked of it."""


class SceneError(IngestError):
    """Nothing came of the scene: its cause and a sentence that says what, where and what to do."""

    def __init__(self, scene_id: str, cause: Cause, message: str) -> None:
        super().__init__(f"scene {scene_id}: {message}")
        self.scene_id = scene_id
        self.cause: Cause = cause

    @property
    def may_pass(self) -> bool:
        """Return whether trying again later may help: a file may have been half written, a server away."""
        return self.cause == "unreadable"
