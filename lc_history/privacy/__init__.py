"""What may stay and who knows: sealing with keys, redaction before anything is stored, a trail of who did what."""
