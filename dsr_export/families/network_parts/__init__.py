"""What the families' networks are made of: layers, embeddings, registers, and their random weights."""
