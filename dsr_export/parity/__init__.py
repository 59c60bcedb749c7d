"""Parity: a candidate's numbers against FP32 PyTorch, as a verdict and not as a warning."""
