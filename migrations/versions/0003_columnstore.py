"""Columnstore and retention, where the server's licence has them."""

from migrations.script import has_community_licence, run

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    if has_community_licence():
        run("0003_columnstore.up")


def downgrade() -> None:
    if has_community_licence():
        run("0003_columnstore.down")
