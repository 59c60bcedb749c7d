"""Precision written into a graph: what stays in FP32 and why, types, and their emulation."""
