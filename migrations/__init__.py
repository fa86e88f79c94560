"""Alembic migrations in hand-written SQL (`sql/`); they never import `db.tables`, which may change under them."""
