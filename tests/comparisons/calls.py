"""The calls that every quantiser calibrates with, and held-out ones: other noise, and labels between those."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.collect import Call
from dsr_export.int8.data import Trajectories
from dsr_export.sampling import Denoiser, SamplerSpec, seeded_noise, trajectory
from tests.comparisons.models import Graph

HELD_OUT_SEED = 77
HELD_OUT_IMAGES = 4
JUDGED_STEPS = 5  # of a walk, evenly spaced from noise to data


def sampler_of(graph: Graph, steps: int | None) -> SamplerSpec:
    """The model's own, or with fewer grid points."""
    own = graph.card.sampler
    assert own is not None
    return own if steps is None else dataclasses.replace(own, num_steps=steps)


def calibration_calls(graph: Graph, sampler: SamplerSpec, images: int) -> list[Call]:
    """The model's own trajectories, as an INT8 build walks them."""
    calls: list[Call] = []
    with graph.runner() as runner:

        def answer(call: Call) -> np.ndarray:
            calls.append(call)
            return runner.infer(call.inputs)[graph.card.outputs[0].name]

        Trajectories(sampler, graph.card, images).drive(answer, lambda done, total: None)
    return calls


def save_calls(calls: list[Call], path: Path) -> Path:
    """All rows in one npz, by input name."""
    np.savez(path, **{name: np.concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs})
    return path


@dataclass(frozen=True)
class HeldOut:
    """One walk of the FP32 model: some of its calls with their outputs, and where it ended."""

    sampler: SamplerSpec
    noise: np.ndarray
    labels: np.ndarray
    cases: list[tuple[dict[str, np.ndarray], np.ndarray]]
    final: np.ndarray

    def walk(self, denoiser: Denoiser) -> np.ndarray:
        """Where another denoiser ends, from the same noise."""
        *_, last = trajectory(denoiser, self.sampler, self.noise, self.labels)
        return last.state


def held_out(graph: Graph, sampler: SamplerSpec, calls: list[Call]) -> HeldOut:
    """Labels that `calls` do not hold, and noise of another seed."""
    noise = seeded_noise(HELD_OUT_SEED, HELD_OUT_IMAGES, graph.card.inputs[0].with_batch(1)[1:])
    labels = _other_labels(graph.card.num_classes, calls)
    judged = set(np.linspace(0, sampler.num_steps - 2, JUDGED_STEPS).astype(int).tolist())
    cases: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    with graph.runner() as runner:

        def answer(inputs: dict[str, np.ndarray]) -> np.ndarray:
            outputs = runner.infer(inputs)[graph.card.outputs[0].name]
            cases.append((inputs, outputs))
            return outputs

        *_, last = trajectory(answer, sampler, noise, labels)
    kept = [case for i, case in enumerate(cases) if i in judged]
    return HeldOut(sampler, noise, labels, kept, last.state)


def _other_labels(classes: int, calls: list[Call]) -> np.ndarray:
    seen = {int(label) for call in calls for label in call.inputs["y"]}
    free = np.array([label for label in range(classes) if label not in seen], np.int64)
    return free[np.linspace(0, len(free) - 1, HELD_OUT_IMAGES).astype(int)]
