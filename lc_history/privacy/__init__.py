"""What may stay: sealing with keys, and redaction before anything is stored."""
