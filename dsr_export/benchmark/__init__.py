"""Latency of graphs side by side."""
