"""What a checkpoint is at rest: values as bytes, each message once, sealed to its row."""
