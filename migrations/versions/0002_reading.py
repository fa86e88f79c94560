"""Views and functions that analysts read."""

from migrations.script import run

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run("0002_reading.up")


def downgrade() -> None:
    run("0002_reading.down")
