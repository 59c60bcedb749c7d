"""Golden vectors: seeded inputs and special rows, with the reference's outputs, written and read."""
