"""Cached states in an unlogged table."""

from migrations.script import run

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    run("0012_states.up")


def downgrade() -> None:
    run("0012_states.down")
