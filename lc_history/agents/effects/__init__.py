"""Each effect once, and no thread stuck behind a call: the ledger, its rows, and what it can answer."""
