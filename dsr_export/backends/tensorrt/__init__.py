"""TensorRT and TensorRT-RTX: engines built, recorded, judged and run."""
