"""Calibration: what tensors really hold over a model's own trajectories. Knows numpy and `graphs` value types."""
