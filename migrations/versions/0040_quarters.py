"""Chunks of a quarter: a parcel's season is planned in a third of the time."""

from migrations.script import run

revision = "0040"
down_revision = "0036"


def upgrade() -> None:
    run("0040_quarters.up")


def downgrade() -> None:
    run("0040_quarters.down")
