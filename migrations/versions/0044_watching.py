"""Health for operators whose server has a login of its own."""

from migrations.script import run

revision = "0044"
down_revision = "0042"


def upgrade() -> None:
    run("0044_watching.up")


def downgrade() -> None:
    run("0044_watching.down")
