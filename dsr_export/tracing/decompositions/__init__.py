"""What is written out in other PyTorch ops before the exporter sees it."""
