"""A sampler's arithmetic as part of the graph."""
