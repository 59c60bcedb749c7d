"""Signatures of every kind: the inputs reach the parameters that they are named after, in PyTorch and in the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from dsr_export.subjects.module import subject_from
from dsr_export.tracing.signatures import call_of
from tests.traced_modules import agree


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)

    def made(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + t[:, None, None]
        return out


class Skipping(Base):
    def forward(self, x: Tensor, mask: Any = None, t: Any = None) -> Tensor:
        assert mask is None
        return self.made(x, t)


class Several(Base):
    def forward(self, *values: Tensor) -> Tensor:
        return self.made(*values)


class Rest(Base):
    def forward(self, x: Tensor, mask: Any = None, *rest: Tensor) -> Tensor:
        assert mask is None
        return self.made(x, *rest)


class Keywords(Base):
    def forward(self, x: Tensor, scale: float = 2.0, **others: Tensor) -> Tensor:
        return self.made(x, **others) * scale


class KeywordOnly(Base):
    def forward(self, mask: Any = None, *, t: Tensor, x: Tensor) -> Tensor:
        b = int(x.shape[0])  # which only a strict trace follows
        return self.made(x.view(b, 6, 8), t)


class PositionOnly(Base):
    def forward(self, x: Tensor, mask: Any = None, t: Any = None, /) -> Tensor:
        assert mask is None
        return self.made(x, t)


@pytest.mark.parametrize("kind", [Skipping, Several, Rest, Keywords, KeywordOnly, PositionOnly])
def test_inputs_reach_their_parameters(kind: type[Base], tmp_path: Path) -> None:
    inputs = {"x": torch.randn(2, 6, 8), "t": torch.randn(2)}
    module = kind().eval()
    subject = subject_from((module, inputs), name="own", called="own", provenance={})
    assert {spec.name for spec in subject.inputs} == {"x", "t"}
    given = [inputs[spec.name] for spec in subject.inputs]
    factor = 2.0 if kind is Keywords else 1.0
    torch.testing.assert_close(subject.module(*given), module.made(**inputs) * factor)
    agree(subject, tmp_path / "traced.onnx", sizes=(1, 3))
    nodes = [node.name for node in onnx.load(tmp_path / "traced.onnx").graph.node]
    assert {"linear/MatMul", "linear/Add"} <= set(nodes)  # under the module's own path
    assert module.training is False and type(module) is kind


def test_a_forward_of_the_instance_is_kept() -> None:
    module = Skipping().eval()
    inputs = {"x": torch.randn(2, 6, 8), "t": torch.randn(2)}
    plain = module(**inputs)
    first = module.forward
    module.forward = lambda x, mask=None, t=None: first(x, mask, t) + 1  # type: ignore[method-assign]
    subject = subject_from((module, inputs), name="own", called="own", provenance={})
    torch.testing.assert_close(subject.module(*inputs.values()), plain + 1)


def test_defaults_stand_where_a_position_must_be_filled() -> None:
    call = call_of(Rest(), ["x", "t"], "own")
    assert [getattr(each, "name", each) for each in call.positional] == ["x", "mask", "t"]
    assert call_of(Skipping(), ["t", "x"], "own").keywords == ("t",)
    assert call_of(Skipping(), ["mask", "x", "t"], "own").order == ("x", "mask", "t")
