"""Registers put into a graph that was exported without them."""
