"""Vector tiles: simplified outlines, and the state of parcels as known at a time, kept until it changes."""

from migrations.script import run

revision = "0036"
down_revision = "0039"


def upgrade() -> None:
    run("0036_map.up")


def downgrade() -> None:
    run("0036_map.down")
