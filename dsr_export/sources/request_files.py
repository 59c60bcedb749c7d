"""The files and folders that a request for a model names, so that no output is written over one."""

from __future__ import annotations

from pathlib import Path

from dsr_export.config import ModelRequest
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.declarations.released_config import read_released
from dsr_export.families.digests import FILE_OPTIONS
from graphs.foreign.brought_in import read_foreign
from graphs.foreign.external_data import external_files

_FILES = (".onnx", ".pt2")  # endings of a MODEL that is a file


def request_files(request: ModelRequest) -> dict[str, Path]:
    """What is read, by what it is called: options, and what the files of these name.

    Raises ExportError for such a file that cannot be read. What is named need not be there.
    """
    given = {
        "--checkpoint": request.checkpoint,
        "--config": request.config_file,
        "--dsr": request.dsr,
        "--model-dir": request.model_dir,
    }
    found = {name: path for name, path in given.items() if path is not None}
    found |= {f"--lora {each.path}": each.path for each in request.loras}
    options = {name: request.options[name] for name in FILE_OPTIONS if name in request.options}
    found |= {f"--{name.replace('_', '-')}": Path(str(value)) for name, value in options.items()}
    return found | _of_model(request) | _named(request)


def _of_model(request: ModelRequest) -> dict[str, Path]:
    """MODEL as a file, and the weights beside a graph."""
    path = Path(request.model)
    if not request.model.lower().endswith(_FILES) or not path.is_file():
        return {}
    beside = external_files(read_foreign(path), path.parent) if path.suffix.lower() == ".onnx" else []
    return {"MODEL": path, **{f"{each} of MODEL": each for each in beside}}


def _named(request: ModelRequest) -> dict[str, Path]:
    """Files in the files of options: by their whole paths, as two may have one name in different folders."""
    found: dict[str, Path] = {}
    if request.dsr is not None and request.dsr.is_file():
        found |= {f"{path} of --dsr": path for path in read_dsr_file(request.dsr).named}
    if request.config_file is not None and request.config_file.is_file():
        weights = read_released(request.config_file).checkpoint
        found |= {} if weights is None else {f"{weights} of --config": weights}
    return found
