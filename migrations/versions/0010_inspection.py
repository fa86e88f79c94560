"""What inspectors and analysts ask: alerts as known at a time, decisions on them, what could be had at a time."""

from migrations.script import run

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run("0010_inspection.up")


def downgrade() -> None:
    run("0010_inspection.down")
