"""NDVI curves as one row a parcel, month and version; `ndvi_daily` shows them as a row a day."""

from migrations.script import has_community_licence, run

revision = "0011"
down_revision = "0013"


def upgrade() -> None:
    run("0011_ndvi_months.up")
    if has_community_licence():
        run("0011_ndvi_months_columnstore.up")


def downgrade() -> None:
    run("0011_ndvi_months.down")
    if has_community_licence():
        run("0011_ndvi_months_columnstore.down")
