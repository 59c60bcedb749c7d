"""Quantises a graph with ModelOpt: graph, npz of calibration rows, output, method, `int8` or `fp8`. Runs in ModelOpt's
own interpreter, so it imports nothing of this package."""

import sys

import numpy as np
from modelopt.onnx.quantization import quantize


def main(source: str, rows: str, out: str, method: str, mode: str = "int8") -> None:
    with np.load(rows) as arrays:
        calibration = dict(arrays)
    quantize(
        source,
        quantize_mode=mode,
        calibration_data=calibration,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
        log_level="ERROR",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
