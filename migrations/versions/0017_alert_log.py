"""The log of alerts is append-only, and knows the states of an inspection."""

from migrations.script import run

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run("0017_alert_log.up")


def downgrade() -> None:
    run("0017_alert_log.down")
