"""Rewrites for ONNX Runtime."""
