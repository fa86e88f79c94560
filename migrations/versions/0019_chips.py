"""Pictures of parcels cut from scenes, and the parcels that are to have them beside those with an alert."""

from migrations.script import run

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run("0019_chips.up")


def downgrade() -> None:
    run("0019_chips.down")
