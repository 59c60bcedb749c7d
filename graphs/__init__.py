"""ONNX graph library: rewrites, stage specs and artefact types. Knows onnx, numpy and onnx-graphsurgeon only."""
