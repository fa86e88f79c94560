"""Pictures from before and after a departure are tried again where that may help."""

from migrations.script import run

revision = "0032"
down_revision = "0025"


def upgrade() -> None:
    run("0032_chip_retries.up")


def downgrade() -> None:
    run("0032_chip_retries.down")
