"""PyTorch ops -> ONNX, where the exporter's own translation loses numbers."""
