"""Programs that are decomposed node by node: the graph is the one that torch's own decomposing gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import ExportedProgram

from dsr_export.subject import Subject
from dsr_export.tracing import trace as tracing
from dsr_export.tracing.decompositions.node_by_node import spell_out
from dsr_export.tracing.exporting import export_program
from dsr_export.tracing.simplification import simplify
from tests.traced_modules import agree, subject_of

Step = Callable[[Any, Tensor], Tensor]
STEPS: dict[str, Step] = {
    "activations": lambda s, x: F.relu(x).clamp(-1, 1).abs().sqrt() + (x * x + 1).log().reciprocal() + 2.0 ** x.tanh(),
    "attention": lambda s, x: F.scaled_dot_product_attention(x, x.neg(), x),
    "chunk": lambda s, x: torch.cat(x.chunk(3, -1)[::-1], -1),
    "complex": lambda s, x: torch.view_as_real(
        torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        * torch.complex(s.positions[..., :4], s.positions[..., 4:])
    ).flatten(-2),
    "compared": lambda s, x: (
        x
        * ((x == 0) | (x != 1)).logical_not().float()
        * torch.where((x <= 2) & (x > x.mean()) & (x < x + 1), (x < 3).float(), (x >= x).float())
        + (x.ge(0) & x.le(x + 1))
    ),
    "contiguous": lambda s, x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "dropout": lambda s, x: F.dropout(x, 0.5, training=False),
    "einsum": lambda s, x: torch.einsum("bnd,ed->bne", x, s.linear.weight) + x.new_zeros(len(x), 6, 8),
    "flatten": lambda s, x: x.unflatten(-1, (2, 4)).transpose(1, 2).flatten(2).view(len(x), 6, 8),
    "float": lambda s, x: x.float() * x.to(torch.float32, copy=True),
    "gelu": lambda s, x: F.gelu(x) - F.silu(x),
    "gathered": lambda s, x: (
        x.cumsum(1)
        + x.amax(-1, keepdim=True)
        + x.index_select(1, torch.tensor([5, 4, 3, 2, 1, 0]))
        + torch.gather(x, 2, (x > 0).long())
    ),
    "heads": lambda s, x: x.reshape(x.shape[0], -1, 2, 4).permute(0, 2, 1, 3).reshape(x.shape[0], 6, 8),
    "grid": lambda s, x: x + torch.stack(torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")).sum(0),
    "images": lambda s, x: (
        F.conv2d(F.pad(x[:, None], (0, 1)), s.linear.weight[None, None, :3, :5], padding="same")[:, 0, :, :8]
        + F.conv1d(x, s.linear.weight[:6, :6, None])
    ),
    "layout": lambda s, x: x.to(device="cpu", dtype=torch.float32),
    "films": lambda s, x: (
        F.conv3d(x[:, None, None], s.linear.weight[None, None, None, :1, :1]).flatten(1).view(-1, 6, 8)
        + x.sum(-1, keepdim=True).floor_divide(2)
    ),
    "linear": lambda s, x: s.linear(x) @ s.linear.weight,
    "norm": lambda s, x: F.layer_norm(x, (8,)),
    "masks": lambda s, x: (
        torch.where((x > 0) & (x < 1), x, 1 - x).masked_fill(x >= 2, 0.5) * (x.to(torch.bool) & torch.tensor(True))
    ),
    "merged": lambda s, x: x.flatten(0, 1).softmax(-1).sum(-1, keepdim=True).repeat(1, 8).view(len(x), -1, 8),
    "numbers": lambda s, x: (
        x * torch.ones(8)
        + torch.zeros(8)
        + torch.full((8,), 2.0)
        + torch.linspace(0, 1, 8)
        + torch.arange(0, 16, 2)
        + x.new_ones(8)
        + torch.ones_like(x)
        - torch.zeros_like(x)
    ),
    "outer": lambda s, x: x + torch.outer(s.positions[0, :, 0], s.linear.bias) * 1e-1 ** torch.tensor(2.0),
    "picked": lambda s, x: x[:, torch.tensor([0, 2, 1, 3, 5, 4])].repeat_interleave(2, 1)[:, ::2].double().float(),
    "positions": lambda s, x: torch.cat([s.token.expand(len(x), -1, -1), x + s.positions], 1)[:, 1:],
    "reshape": lambda s, x: x.transpose(1, 2).reshape(x.shape[0], -1, 6).reshape(len(x), 6, 8).flatten(2),
    "rms": lambda s, x: (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).type_as(x),
    "rms norm": lambda s, x: F.rms_norm(x, (8,), s.linear.bias, 1e-6) + F.rms_norm(x, (8,)) + F.group_norm(x, 2),
    "rotate": lambda s, x: torch.stack([-x.unflatten(-1, (-1, 2)).unbind(-1)[1], x[..., ::2]], -1).flatten(-2),
    "squash": lambda s, x: torch.tanh(x).sin() / (2 + torch.sigmoid(x).cos()),
    "scattered": lambda s, x: (
        x.slice_scatter(x[:, 1:2], 1, 0, 1).select_scatter(x[:, 0], 1, 2).detach()
        + torch.concat([torch.bmm(x[:, :1], x[:, :1].transpose(1, 2)), x[..., :7].sum() + x[:, :1, :7]], -1)
    ),
    "sizes": lambda s, x: x * (len(x) * 2) + x.new_zeros(8) + len(x) // 2,
    "square": lambda s, x: x.square() * x.pow(2).exp().unsqueeze(1).squeeze(1).pow(-1),
    "split": lambda s, x: torch.cat([x.split([3, 5], -1)[1], x.split(3, -1)[0]], -1),
}


def _nodes(program: ExportedProgram, subject: Subject) -> list[Any]:
    """What the exporter writes, but for the names of constants, which are numbered, and for what does nothing."""
    with torch.no_grad(), tracing._quiet():
        model = tracing._translate(subject, program).model
        simplify(model)
    tracing.name_nodes(model.graph)
    known = {id(value) for node in model.graph for value in node.outputs}
    constants = {value.name: value.const_value for value in model.graph.initializers.values()}

    def read(value: Any) -> Any:
        source = None if value is None else value.producer()
        if source is not None and source.op_type == "Identity":
            return read(source.inputs[0])
        made = value is None or id(value) in known or constants.get(value.name) is None
        return getattr(value, "name", None) if made else constants[value.name].numpy().tolist()

    return [
        (node.op_type, node.name, [read(each) for each in node.inputs], _attributes(node))
        for node in model.graph
        if node.op_type != "Identity"
    ]


def _attributes(node: Any) -> list[str]:
    """But for what a size of 0 means, which none has."""
    return sorted(f"{name} {each}" for name, each in node.attributes.items() if name != "allowzero")


def _both_ways(subject: Subject) -> None:
    with torch.no_grad(), tracing._quiet():
        torchs, ours = export_program(subject).program, export_program(subject).program
    assert spell_out(ours), ours.graph
    assert _nodes(ours, subject) == _nodes(torchs, subject)


def _body(names: list[str]) -> Step:
    def body(s: Any, x: Tensor) -> Tensor:
        for name in names:
            x = STEPS[name](s, x)
        return 2 * x

    return body


@pytest.mark.parametrize("first", range(0, len(STEPS), 3))
def test_each_op_is_written_as_torch_writes_it(first: int, tmp_path: Path) -> None:
    subject = subject_of(_body(list(STEPS)[first : first + 3]))
    _both_ways(subject)
    agree(subject, tmp_path / "traced.onnx")


@pytest.mark.slow
@settings(max_examples=12, phases=[Phase.generate])
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=4, max_size=9))
def test_ops_in_any_order_are_written_as_torch_writes_them(names: list[str]) -> None:
    _both_ways(subject_of(_body(names)))


def test_an_output_keeps_its_name(tmp_path: Path) -> None:
    subject = subject_of(lambda s, x: s.linear(x).flatten(1))
    _both_ways(subject)
    agree(subject, tmp_path / "traced.onnx")


def _kept_count(s: Any, x: Tensor) -> Tensor:
    s.lengths.add_(1)
    return x * s.lengths[0]


def _without_gradient(s: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        return s.linear(x).square() * 2


def _written(s: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y.square() * 2


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda s, x: 2 * F.dropout(x, 0.5, training=True), id="dropout that drops"),
        pytest.param(lambda s, x: x.to(torch.float64, copy=True).square() * 2, id="a copy of another type"),
        pytest.param(lambda s, x: torch.cat([x, x[:1]]).flatten(0, 1).square() * 2, id="a size that is a sum"),
        pytest.param(lambda s, x: s.linear(x).float(), id="an output that is another's"),
        pytest.param(lambda s, x: 2 * torch.cumprod(x, 1).square(), id="an op that is not listed"),
        pytest.param(lambda s, x: x[:, :0].flatten(1).sum(1, keepdim=True) + x.sum((1, 2))[:, None], id="no rows"),
        pytest.param(lambda s, x: torch.cat([x[:, :0].chunk(3, 1)[1], x.square()], 1) * 2, id="chunks of no rows"),
        pytest.param(
            lambda s, x: x + F.conv2d(x[:1], s.linear.weight[None, None, :3, :3], padding="same"),
            id="an image without a batch",
        ),
        pytest.param(_kept_count, id="state"),
        pytest.param(_without_gradient, id="a region of its own"),
        pytest.param(_written, id="a write in place"),
    ],
)
def test_what_it_does_not_know_is_left_as_it_is(body: Step) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.register_buffer("lengths", torch.tensor([1, 2, 3]))

        def forward(self, x: Tensor) -> Tensor:
            return body(self, x)

    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(Module(), (torch.randn(3, 6, 8),), dynamic_shapes=(batch,))
    before = str(program.graph)
    assert not spell_out(program)
    assert str(program.graph) == before
    assert "run_decompositions" not in vars(program)


def test_a_program_of_somebodys_own_is_left_as_it_is(tmp_path: Path) -> None:
    """It is the reference as well, which must not have what was rewritten."""
    subject = subject_of(_body(["rms", "heads"]))
    with torch.no_grad(), tracing._quiet():
        program = export_program(subject).program
    before = str(program.graph)
    tracing.trace(subject, tmp_path / "m.onnx", program=program)
    assert str(program.graph) == before
