"""Rows that a model is tried with: drawn by seed, or a user's own, and of which kind they are."""
