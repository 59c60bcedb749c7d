"""What a model is to an export, by the form it comes in: a module, a program, an ONNX graph."""
