"""Diagnosis of a diffusers pipeline: outlier tokens of either stream and their roles, over its own trajectories."""
