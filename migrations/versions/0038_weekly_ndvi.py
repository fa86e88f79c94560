"""NDVI of regions and declared crops by week, rolled up; version 1.1 of the contract."""

from migrations.script import run

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    run("0038_weekly_ndvi.up")


def downgrade() -> None:
    run("0038_weekly_ndvi.down")
