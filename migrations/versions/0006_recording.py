"""When things became known, in commit order; what is to be made anew of a parcel; parcels by the agency's id."""

from migrations.script import run

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run("0006_recording.up")


def downgrade() -> None:
    run("0006_recording.down")
