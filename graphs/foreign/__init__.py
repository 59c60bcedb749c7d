"""ONNX files that others made: what is refused, and what is brought into our form."""
