"""Dead letters that repeat another: what was sent again and rejected again."""

from migrations.script import run

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run("0007_dead_letter_repeats.up")


def downgrade() -> None:
    run("0007_dead_letter_repeats.down")
