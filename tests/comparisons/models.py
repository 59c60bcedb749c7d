"""The models that are compared, as FP32 graphs: what every quantiser starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.families import load_subject
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.subject import Subject, SubjectCard
from graphs.lowering import lower, optimize
from tests.comparisons.planting import plant

SEED = 0
RANDOM, PLANTED = ("rae-dit-s",), "rae-dit-s-planted"


@dataclass(frozen=True)
class Graph:
    """A lowered and optimised FP32 graph and what is known of it."""

    path: Path
    card: SubjectCard

    def runner(self) -> OnnxRuntimeRunner:
        """The truth: node by node as written."""
        return OnnxRuntimeRunner(self.path, inputs=self.card.inputs, optimize=False)


def _planted() -> Subject:
    subject = load_subject("rae-dit-s", random_weights=SEED)
    assert isinstance(subject.module, RaeDit)
    plant(subject.module)
    return subject


MODELS: Mapping[str, Callable[[], Subject]] = {
    "digits": lambda: load_subject("digits"),
    "digits-outliers": lambda: load_subject("digits-outliers"),
    "rae-dit-s": lambda: load_subject("rae-dit-s", random_weights=SEED),
    PLANTED: _planted,
}


def fp32_graph(name: str, folder: Path) -> Graph:
    """Writes the graph of the model called `name` to `folder`."""
    return graph_of(MODELS[name](), folder)


def graph_of(subject: Subject, folder: Path) -> Graph:
    """The same for a loaded model."""
    lowered, _ = lower(subject.trace(folder / "symbolic.onnx"), folder / "lowered.onnx")
    return Graph(optimize(lowered, folder / "fp32.onnx")[0].path, subject.card())


def request(name: str, folder: Path) -> dict[str, Any]:
    """What a build of the model called `name` is asked for, beside its precision; planted weights become a file."""
    if name != PLANTED:
        return {"model": name, "random_weights": SEED if name in RANDOM else None}
    state = {key: value.contiguous() for key, value in MODELS[name]().module.state_dict().items()}
    save_file(state, weights := folder / "weights.safetensors")
    return {"model": name.removesuffix("-planted"), "checkpoint": weights}
