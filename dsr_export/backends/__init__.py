"""Runtimes: each heavy import in one file, all behind `base.Runner`."""
