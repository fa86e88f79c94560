"""The map counts writers of its own database alone."""

from migrations.script import run

revision = "0045"
down_revision = "0044"


def upgrade() -> None:
    run("0045_writers.up")


def downgrade() -> None:
    run("0045_writers.down")
