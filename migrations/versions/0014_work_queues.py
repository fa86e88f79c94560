"""Pending work in a queue for each season and collection."""

from migrations.script import run

revision = "0014"
down_revision = "0011"


def upgrade() -> None:
    run("0014_work_queues.up")


def downgrade() -> None:
    run("0014_work_queues.down")
