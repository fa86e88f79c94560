"""Sources of scenes: how far each has been polled, and what went wrong."""

from migrations.script import run

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run("0005_scene_sources.up")


def downgrade() -> None:
    run("0005_scene_sources.down")
