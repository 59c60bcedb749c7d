"""The version of the three packages, which nothing else is needed for."""

__version__ = "0.1.0"
