"""The command ``lc-history``: talk, look after conversations, keep the store in order.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the store cannot be reached, 4 there is no such session,
5 damage was found.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

from lc_history.cli.app import app, complain
from lc_history.cli.chat import chat
from lc_history.cli.conversations import export, import_, rm, sessions, show
from lc_history.cli.eval import evaluate
from lc_history.cli.upkeep import archive, doctor, migrate, rotate_keys
from lc_history.errors import DecodeError, HistoryError, StoreUnavailableError

__all__ = [
    "archive",
    "chat",
    "doctor",
    "evaluate",
    "export",
    "import_",
    "main",
    "migrate",
    "rm",
    "rotate_keys",
    "sessions",
    "show",
]


def main() -> None:
    """Run the command; whatever goes wrong on purpose is one readable line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that knows few characters
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # the error itself says what the pool would log
    try:
        app()
    except StoreUnavailableError as error:
        sys.exit(complain(error, 3))
    except KeyError as error:
        sys.exit(complain(error.args[0], 4))
    except DecodeError as error:
        sys.exit(complain(error, 5))
    except (HistoryError, ValueError, OSError) as error:
        sys.exit(complain(error, 1))
