"""People who use the API and the console: roles, keys, sessions."""

from migrations.script import run

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    run("0034_access.up")


def downgrade() -> None:
    run("0034_access.down")
