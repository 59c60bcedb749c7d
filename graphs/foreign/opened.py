"""Where an ONNX file that others made becomes ours: read, and checked for what no reader of it could bear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from graphs.errors import ExportError
from graphs.files import load_model
from graphs.foreign.external_data import check_external_data
from graphs.foreign.function_calls import inlined
from graphs.foreign.model_parts import model_parts
from graphs.foreign.soundness import check_sound
from graphs.foreign.tensor_sizes import check_sizes

_AGAIN = "copy or export it again"
_FOR_EVER = ("Loop", "Scan")


@contextmanager
def foreign_file(path: Path) -> Iterator[None]:
    """What a file can make onnx's parser, inliner and inference raise has no end and no common base: here all of it
    becomes one `ExportError`."""
    try:
        yield
    except (ExportError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ExportError(f"{path} cannot be read by onnx: {reason}", hint=_AGAIN) from error


def sound_model(path: Path) -> onnx.ModelProto:
    """The model at `path`, its external weights left on disk. Raises ExportError for what is not sound."""
    model = load_model(path, weights=False)
    if not model.graph.output or not model.opset_import:
        raise ExportError(f"{path} is not a readable ONNX model: it holds no graph", hint=_AGAIN)
    check_sound(model)
    check_external_data(model, path.parent)
    return model


def read_runnable(path: Path) -> onnx.ModelProto:
    """A model that is run as it is, of any types and domains: sound, of bounded size, and sure to end.

    Raises:
        ExportError: a file that is damaged or asks for too much, or a loop.
    """
    with foreign_file(path):
        model = sound_model(path)
        _check_ends(model)
        return model


def check_runnable(model: onnx.ModelProto, path: Path) -> None:
    """What `read_runnable` checks of `model`, which was read from `path`, its external data apart."""
    with foreign_file(path):
        check_sound(model)
        _check_ends(model)


def _check_ends(model: onnx.ModelProto) -> None:
    flat = inlined(model)
    loop = next((node for node in model_parts(flat).nodes if node.op_type in _FOR_EVER), None)
    if loop is not None:
        raise ExportError(f"{loop.op_type} (node '{loop.name}') may run for ever", hint="export it without loops")
    check_sizes(flat)
