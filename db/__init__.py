"""The only place that knows SQL: tables, bulk writes, reads, and servers of its own where none are given."""
