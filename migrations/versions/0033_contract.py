"""The contract: a schema that people and programs may rely on, and who sees what of it."""

from migrations.script import run

revision = "0033"
down_revision = "0030"


def upgrade() -> None:
    run("0033_contract.up")


def downgrade() -> None:
    run("0033_contract.down")
