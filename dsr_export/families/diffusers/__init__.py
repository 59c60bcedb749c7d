"""Transformers of diffusers."""
