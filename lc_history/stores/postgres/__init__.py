"""A store on PostgreSQL: `store` has the verbs, `sql` does them on the server, `turn` is one append."""

from lc_history.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
