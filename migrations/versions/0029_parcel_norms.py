"""What parcels looked like in past seasons."""

from migrations.script import run

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    run("0029_parcel_norms.up")


def downgrade() -> None:
    run("0029_parcel_norms.down")
