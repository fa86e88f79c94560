"""Lights as known at a time, rounds that freeze them, and random samples with verdicts that measure them."""

from migrations.script import run

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run("0020_rounds_quality.up")


def downgrade() -> None:
    run("0020_rounds_quality.down")
