"""Rewrites for engines."""
