"""Markers of field work, and what they said as known at a time."""

from migrations.script import run

revision = "0027"
down_revision = "0024"


def upgrade() -> None:
    run("0027_markers.up")


def downgrade() -> None:
    run("0027_markers.down")
