"""Weights of a graph: which they are, who reads them, and their values in files."""
