"""PostgreSQL, as the store, the checkpointer and the ledger share it: connections, healing, migrations, names."""

from lc_history.postgres.database import Postgres, Work
from lc_history.postgres.migrations import MIGRATIONS_LOCK, migration_script
from lc_history.postgres.names import escaped, quoted, unescaped
from lc_history.postgres.pools import start_embedded

__all__ = [
    "MIGRATIONS_LOCK",
    "Postgres",
    "Work",
    "escaped",
    "migration_script",
    "quoted",
    "start_embedded",
    "unescaped",
]
