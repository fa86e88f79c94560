"""What the API does for people: decisions with photos, subscriptions of their own, new events in the order in which they became known."""

from migrations.script import run

revision = "0037"
down_revision = "0029"


def upgrade() -> None:
    run("0037_deciding.up")


def downgrade() -> None:
    run("0037_deciding.down")
