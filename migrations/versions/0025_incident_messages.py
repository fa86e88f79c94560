"""One message for a regional incident; finished deliveries are removed after a time; suppressed lights."""

from migrations.script import run

revision = "0025"
down_revision = "0027"


def upgrade() -> None:
    run("0025_incident_messages.up")


def downgrade() -> None:
    run("0025_incident_messages.down")
