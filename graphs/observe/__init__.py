"""Copies of a graph that also tell what they compute inside."""
