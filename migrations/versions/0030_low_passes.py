"""Radar passes on which parcels were low, and how many of their neighbours were at the same passes."""

from migrations.script import run

revision = "0030"
down_revision = "0032"


def upgrade() -> None:
    run("0030_low_passes.up")


def downgrade() -> None:
    run("0030_low_passes.down")
