"""A parcel's history at the cost of its rows, and the parcels seen on some days."""

from migrations.script import run

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run("0015_history.up")


def downgrade() -> None:
    run("0015_history.down")
