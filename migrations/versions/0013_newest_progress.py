"""Indexes for the newest progress of a season and for what its sample rests on."""

from migrations.script import run

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run("0013_newest_progress.up")


def downgrade() -> None:
    run("0013_newest_progress.down")
