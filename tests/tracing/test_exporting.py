"""The batch axis of a trace: free where it can be, and named with its line where it can't."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.trace import CARD, TraceModel
from dsr_export.subject import SubjectCard
from dsr_export.subjects.module import subject_from
from dsr_export.tracing.exporting import example_size
from tests.traced_modules import agree, subject_of


def whole_number(s: Any, x: Tensor) -> Tensor:
    b = int(x.shape[0])
    return s.linear(torch.cat([s.token.expand(b, -1, -1), x], 1)).view(b, 7, 2, 4).transpose(1, 2)


def length(s: Any, x: Tensor) -> Tensor:
    y = s.linear(torch.cat([x, 2 * x]))
    return y[: len(y) // 2] + 3 * y[len(y) // 2 :]


def guidance(s: Any, x: Tensor) -> Tensor:
    a, b, c = s.linear(torch.cat([x, 2 * x, 3 * x])).chunk(3)
    return a + 3 * b + c


def parts(s: Any, x: Tensor) -> Tensor:
    a, b = s.linear(torch.cat([x, 2 * x])).split(x.shape[0])
    return a + 3 * b


def pair_first(s: Any, x: Tensor) -> Tensor:
    y = torch.cat([x, 2 * x]).view(2, -1, 6, 8)
    return y[0] + s.linear(y[1])


def mask_per_head(s: Any, x: Tensor) -> Tensor:
    mask = (x[..., :1] * x[:, None, :, 0]).repeat_interleave(2, dim=0)
    heads = x.view(x.shape[0], 6, 2, 4).transpose(1, 2).reshape(-1, 6, 4)
    return (torch.bmm(heads, heads.mT) * mask).view(-1, 2, 6, 6)


def windows(s: Any, x: Tensor) -> Tensor:
    w = x.view(x.shape[0], 2, 3, 8).reshape(-1, 3, 8)
    return (w @ w.mT).view(int(w.shape[0] / 2), 2, 3, 3)


def one_row_apart(s: Any, x: Tensor) -> Tensor:
    return x.squeeze(0)[None] * 2 if x.shape[0] == 1 else x * 2


FREE = [whole_number, length, guidance, parts, pair_first, mask_per_head, windows, one_row_apart]


@pytest.mark.parametrize("body", FREE, ids=lambda body: body.__name__)
def test_forms_that_leave_the_batch_free(body: Any, tmp_path: Path) -> None:
    traced, _ = agree(subject_of(body), tmp_path / "traced.onnx")
    assert (traced.batch_limits, traced.batch_reason) == ((1, None), "")


def next_row(s: Any, x: Tensor) -> Tensor:
    return torch.stack([x[(i + 1) % x.shape[0]] for i in range(x.shape[0])])


def test_a_batch_that_becomes_a_constant_is_named_with_its_line(tmp_path: Path) -> None:
    line = next_row.__code__.co_firstlineno + 1
    message = rf"tracing own: the batch became a constant at .*test_exporting.py:{line} `return "
    with pytest.raises(ExportError, match=message) as refused:
        subject_of(next_row).trace(tmp_path / "traced.onnx")
    assert "compute all rows at once" in str(refused.value.hint)


class TwoInputs(torch.nn.Module):
    """x [B, 6, 8] and t [B, 12], whose rows are told apart by x's batch."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = t.view(x.shape[0], -1, 2, 6).mT.unbind(-1)
        return x[..., :1] * (1 + scale.reshape(x.shape[0], 6, -1)) + shift


def test_the_batches_of_two_inputs_are_known_to_be_one(tmp_path: Path) -> None:
    examples = {"x": torch.randn(2, 6, 8), "t": torch.randn(2, 12)}
    subject = subject_from((TwoInputs().eval(), examples), name="own", called="own", provenance={})
    assert agree(subject, tmp_path / "traced.onnx")[0].batch_limits == (1, None)


def asserted(s: Any, x: Tensor) -> Tensor:
    assert x.shape[0] <= 8
    return s.linear(x)


def another_path(s: Any, x: Tensor) -> Tensor:
    return s.linear(x) if x.shape[0] > 2 else x


def neighbour(s: Any, x: Tensor) -> Tensor:
    return x - x[1]


def halves(s: Any, x: Tensor) -> Tensor:
    a, b = s.linear(x).chunk(2)  # of the example's three rows, the second half is one
    return torch.cat([a, 3 * b])


@pytest.mark.parametrize(
    ("body", "limits", "asked", "takes", "hint"),
    [
        (asserted, (1, 8), (1, 2, 9), r"from 1 to 8 \(.*test_exporting.py:\d+ `assert x.shape\[0\] <= 8`\)", "1,2,8"),
        (another_path, (3, None), (1, 2, 4), r"from 3 \(.*`return .* if x.shape\[0\] > 2 else x`\)", "3,3,4"),
        (neighbour, (2, None), (1, 1, 4), r"from 2 \(.*`return x - x\[1\]`\)", "2,2,4"),
        (halves, (2, None), (1, 1, 4), r"from 2 \(.*`a, b = s.linear\(x\).chunk\(2\).*`\)", "2,2,4"),
    ],
)  # fmt: skip
def test_a_condition_on_the_batch_limits_it(
    body: Any, limits: Any, asked: Any, takes: str, hint: str, tmp_path: Path
) -> None:
    TraceModel(model=ModelAtHand(None, subject_of(body))).work(tmp_path, None)  # type: ignore[arg-type]
    card = SubjectCard.load(tmp_path / CARD)
    assert card.batch_limits == limits
    with pytest.raises(ExportError, match=f"own takes batches {takes}, and 1 to") as refused:
        card.check_batch(BatchRange(*asked))
    assert f"give --batch {hint}, or take that condition out" in str(refused.value.hint)


def test_declared_limits_are_those_of_the_trace(tmp_path: Path) -> None:
    def doubled(s: Any, x: Tensor) -> Tensor:
        return s.linear(x) + F.pad(x, (0, 0, 0, 0, 0, 4 - x.shape[0]))[:2].sum()

    subject = dataclasses.replace(subject_of(lambda s, x: s.linear(x)), batch_limits=(4, 4))
    subject.module.body = doubled
    traced, _ = agree(subject, tmp_path / "fixed.onnx", sizes=(4,))
    assert traced.batch_limits == (4, 4)
    ranged = dataclasses.replace(subject_of(lambda s, x: s.linear(x)), batch_limits=(2, 6))
    assert agree(ranged, tmp_path / "ranged.onnx", sizes=(2, 6))[0].batch_limits == (2, 6)


def test_the_batch_that_is_traced_is_no_other_size_of_the_inputs() -> None:
    subject = subject_of(lambda s, x: x)
    assert example_size(subject) == 3
    spec = dataclasses.replace(subject.inputs[0], shape=("batch", 3, 5))
    assert example_size(dataclasses.replace(subject, inputs=(spec,))) == 7
    assert example_size(dataclasses.replace(subject, batch_limits=(1, 2))) == 2
