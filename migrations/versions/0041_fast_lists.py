"""What lists of alerts and of places are made of, where they are read: of each alert its parcel's season, region, crop and place."""

from migrations.script import run

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    run("0041_fast_lists.up")


def downgrade() -> None:
    run("0041_fast_lists.down")
