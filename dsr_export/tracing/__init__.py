"""PyTorch -> ONNX: the exported program, its decompositions and translations, and what to say where they fail."""
