"""The life of scenes: found, cut, reconciled."""

from migrations.script import run

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run("0004_scenes.up")


def downgrade() -> None:
    run("0004_scenes.down")
