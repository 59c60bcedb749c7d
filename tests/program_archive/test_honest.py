"""Programs that people save are loaded as they are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dsr_export.program_archive import load_archive
from dsr_export.sources import load_subject


class Everything(nn.Module):
    """Shared, expanded and empty weights; regions without gradients and in another type; in-place operators."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.again = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again.weight = self.linear.weight
        self.register_buffer("expanded", torch.ones(1).expand(4, 4))
        self.register_buffer("part", torch.arange(12.0).reshape(3, 4)[1:, ::2])
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.mask = torch.tensor([[0.0, float("-inf")], [0.0, 0.0]])

    def forward(self, x: Tensor, *, y: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            h = self.linear(x) @ self.expanded
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = h + self.again(y)
        first, second = h.float().chunk(2, -1)
        made = torch.zeros_like(first)
        made.add_(second)
        made[:, 0] = 1
        masked = (self.mask + first[:, :1, :1]).softmax(-1).masked_fill(made[:, :2] > 2, float("-inf"))
        return first.reshape(first.shape[0], -1), made + self.shift[:2], masked + self.part, (x.shape[0] * 2) * second


def test_all_that_a_module_may_hold(tmp_path: Path) -> None:
    axis = torch.export.Dim("batch", min=2, max=64)
    example = torch.linspace(-1, 1, 72).reshape(3, 6, 4)
    module = Everything().eval()
    program = torch.export.export(
        module, (example,), {"y": example + 1}, dynamic_shapes={"x": {0: axis}, "y": {0: axis}}
    )
    with warnings.catch_warnings(action="ignore"):  # torch's own, of the expanded buffer
        torch.export.save(program, tmp_path / "e.pt2", extra_files={"notes/a.txt": "é"})
    subject = load_subject(str(tmp_path / "e.pt2"))
    assert subject.batch_limits == (2, 64)
    feeds = subject.example(5, seed=0)
    with subject.reference() as reference:
        got = reference.infer(feeds)
    expected = module(torch.from_numpy(feeds["x"]), y=torch.from_numpy(feeds["y"]))
    for made, wanted in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(made, wanted.detach(), rtol=1e-5, atol=1e-6)


def test_shared_weights_stay_shared_and_examples_are_the_users(tmp_path: Path) -> None:
    example = torch.linspace(-1, 1, 72).reshape(3, 6, 4)
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(Everything().eval(), (example,), {"y": example + 1}), tmp_path / "e.pt2")
    program = load_archive(tmp_path / "e.pt2")
    weights = program.state_dict
    assert weights["linear.weight"].data_ptr() == weights["again.weight"].data_ptr()
    assert weights["expanded"].stride() == (0, 0)
    assert program.example_inputs is not None
    args, keywords = program.example_inputs
    torch.testing.assert_close(args[0], example)
    torch.testing.assert_close(keywords["y"], example + 1)


def test_a_program_without_examples_and_one_in_core_operators(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # torch's own, of its trees
        program = torch.export.export(nn.Linear(4, 4).eval(), (torch.ones(2, 4),)).run_decompositions()
    program.example_inputs = None
    torch.export.save(program, tmp_path / "bare.pt2")
    assert load_subject(str(tmp_path / "bare.pt2")).outputs[0].shape == (2, 4)
