"""Reads of the SQL contract, as the one who asks may see it: connections come from `db.access.asking`."""

import sqlalchemy as sa


def regions(connection: sa.Connection) -> list[str]:
    """Return the codes of the regions that may be seen."""
    return list(connection.execute(sa.text("select region from parcelwatch.regions order by region")).scalars())
