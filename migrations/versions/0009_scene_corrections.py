"""What a scene sent last, and the places whose files scenes may be read from."""

from migrations.script import run

revision = "0009"
down_revision = "0005"


def upgrade() -> None:
    run("0009_scene_corrections.up")


def downgrade() -> None:
    run("0009_scene_corrections.down")
