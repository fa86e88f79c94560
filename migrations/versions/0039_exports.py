"""Parcels as exports write them; roles of the services of the chain."""

from migrations.script import run

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    run("0039_exports.up")


def downgrade() -> None:
    run("0039_exports.down")
