"""Measures of seasons with their standard deviations, and the phenology as known at a time."""

from migrations.script import run

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run("0016_phenology.up")


def downgrade() -> None:
    run("0016_phenology.down")
