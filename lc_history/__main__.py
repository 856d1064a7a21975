"""``python -m lc_history``: the command ``lc-history``."""

from lc_history.cli import main

main()
