"""What registers do, as PyTorch operators: each with its definition, and one node in a trace."""
