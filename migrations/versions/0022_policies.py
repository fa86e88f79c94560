"""Policies that are put in force."""

from migrations.script import run

revision = "0022"
down_revision = "0020"


def upgrade() -> None:
    run("0022_policies.up")


def downgrade() -> None:
    run("0022_policies.down")
