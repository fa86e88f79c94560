"""Bands of NDVI by region, declared crop and dekad."""

from migrations.script import run

revision = "0028"
down_revision = "0034"


def upgrade() -> None:
    run("0028_bands.up")


def downgrade() -> None:
    run("0028_bands.down")
