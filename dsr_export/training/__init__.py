"""Recipes that made the packaged weights; anyone can re-run them."""
