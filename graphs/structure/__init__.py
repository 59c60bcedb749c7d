"""What a graph is made of, found by its structure: residual streams, norms, token axes."""
