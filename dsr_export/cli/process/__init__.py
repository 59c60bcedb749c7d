"""The process that a command runs in: its streams and its signals."""
