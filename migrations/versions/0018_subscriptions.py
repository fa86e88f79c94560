"""Subscriptions, and the outbox that the log of alerts fills."""

from migrations.script import run

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run("0018_subscriptions.up")


def downgrade() -> None:
    run("0018_subscriptions.down")
