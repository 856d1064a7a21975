"""One module per store; each keeps the promises of `lc_history.store`."""
