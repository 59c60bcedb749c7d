"""INT8 written into a graph."""
