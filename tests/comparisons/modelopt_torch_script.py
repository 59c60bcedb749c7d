"""Quantises a PyTorch module with ModelOpt's `FP8_DEFAULT_CFG`: model, npz of calibration rows, npz of cases
(`0/x`, ...), output, `own` or `blocks`. Runs in ModelOpt's own interpreter, which needs what loads our models, too:
click, filelock, onnx_graphsurgeon, pillow, pyyaml, rich, safetensors and torchmetrics."""

import copy
import sys
from collections.abc import Callable

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from torch import nn

from tests.comparisons.models import MODELS

MOST_ROWS = 8
OUTSIDE = ("*embedder*", "*final_layer*", "*adaLN_modulation*")
"""What ours leaves in floats, or gives 13 bits."""


def main(name: str, rows: str, cases: str, out: str, choice: str) -> None:
    subject = MODELS[name]()
    names = [spec.name for spec in subject.inputs]
    with np.load(rows) as arrays:
        calibration = _batches([arrays[each] for each in names])
    module = mtq.quantize(subject.module, _config(choice), _walk(calibration))
    print(f"{_active(module)} quantisers", file=sys.stderr)
    with np.load(cases) as arrays:
        count = len({key.split("/")[0] for key in arrays})
        asked = [[arrays[f"{i}/{each}"] for each in names] for i in range(count)]
    np.savez(out, **{str(i): _made(module, each) for i, each in enumerate(asked)})


def _config(choice: str) -> dict:
    config = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    if choice == "blocks":
        config["quant_cfg"] += [{"quantizer_name": each, "enable": False} for each in OUTSIDE]
    return config


def _batches(inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
    return [[each[i : i + MOST_ROWS] for each in inputs] for i in range(0, len(inputs[0]), MOST_ROWS)]


def _walk(calibration: list[list[np.ndarray]]) -> Callable[[nn.Module], None]:
    def loop(module: nn.Module) -> None:
        for each in calibration:
            _made(module, each)

    return loop


def _made(module: nn.Module, inputs: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return module(*(torch.from_numpy(each.copy()) for each in inputs)).numpy()


def _active(module: nn.Module) -> int:
    found = [each for each in module.modules() if type(each).__name__ == "TensorQuantizer" and each.is_enabled]
    if not found:
        raise SystemExit("ModelOpt found nothing to quantise")
    return len(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
