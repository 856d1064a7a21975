"""The command ``lc-history``: talk, look after conversations and agents, keep the store in order.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the store cannot be reached, 4 there is no such session
or thread, 5 damage was found, 6 an agent waits for a person.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

from lc_history.cli.app import app, complain, recorded
from lc_history.cli.chat import chat
from lc_history.cli.conversations import export, import_, rm, sessions, show
from lc_history.cli.eval import evaluate
from lc_history.cli.indexing import index
from lc_history.cli.runs import repair, resume
from lc_history.cli.threads import checkpoints, fork, retain, threads
from lc_history.cli.trails import audit
from lc_history.cli.upkeep import archive, doctor, migrate, rotate_keys
from lc_history.errors import DecodeError, HistoryError, StoreUnavailableError

__all__ = [
    "archive",
    "audit",
    "chat",
    "checkpoints",
    "doctor",
    "evaluate",
    "export",
    "fork",
    "import_",
    "index",
    "main",
    "migrate",
    "repair",
    "resume",
    "retain",
    "rm",
    "rotate_keys",
    "sessions",
    "show",
    "threads",
]


def main() -> None:
    """Run the command; whatever goes wrong on purpose is one readable line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that knows few characters
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # the error itself says what the pool would log
    try:
        with recorded():
            app()
    except StoreUnavailableError as error:
        sys.exit(complain(error, 3))
    except KeyError as error:
        sys.exit(complain(error.args[0], 4))
    except DecodeError as error:
        sys.exit(complain(error, 5))
    except (HistoryError, ValueError, OSError) as error:
        sys.exit(complain(error, 1))
