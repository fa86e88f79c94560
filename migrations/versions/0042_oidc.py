"""Sign-in by OpenID Connect; ended sign-ins are removed."""

from migrations.script import run

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    run("0042_oidc.up")


def downgrade() -> None:
    run("0042_oidc.down")
