"""The RAE decoder."""
