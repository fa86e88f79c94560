"""The inbox of alerts, and how long finished deliveries are kept."""

from migrations.script import run

revision = "0024"
down_revision = "0022"


def upgrade() -> None:
    run("0024_inbox.up")


def downgrade() -> None:
    run("0024_inbox.down")
