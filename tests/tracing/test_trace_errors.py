"""Every trace that fails says what failed, at which line, and what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from dsr_export.errors import ExportError
from dsr_export.tracing.decompositions import complex_ops
from tests.traced_modules import subject_of


def no_translation(s: Any, x: Tensor) -> Tensor:
    return torch.special.bessel_j0(s.linear(x))


def by_value(s: Any, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else 2 * x


def own_error(s: Any, x: Tensor) -> Tensor:
    if torch.compiler.is_exporting():
        raise ValueError("not while exporting")
    return x


def shapes(s: Any, x: Tensor) -> Tensor:
    return s.linear(x[..., :3]) if torch.compiler.is_exporting() else x


def hashed(s: Any, x: Tensor) -> Tensor:
    assert not torch.compiler.is_dynamo_compiling()  # which would make a constant of the batch
    return x.roll(len({x.shape[0]}), 0)


def flexible(s: Any, x: Tensor) -> Tensor:
    return flex_attention(x[:, None], x[:, None], x[:, None])


CASES = [
    (hashed, r"the batch is needed as a Python number \(.*_errors.py:\d+ `return x.roll", "compute all rows at once"),
    (flexible, r"no ONNX translation of flex_attention for its inputs at ", "scaled_dot_product_attention"),
    (no_translation, r"no ONNX translation of aten\.special_bessel_j0\.default for its inputs at ", "bessel_j0"),
    (by_value, r"depend on the values of a tensor \(.*_errors.py:\d+ `return x if x.sum\(\) > 0", "torch.where"),
    (own_error, r"ValueError: not while exporting at .*:\d+ `raise ValueError", "see it whole"),
    (shapes, r"RuntimeError: .*must have same reduction dim.* at .*:\d+ `return s\.linear\(x", "see it whole"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(("body", "message", "hint"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_the_true_cause_is_named(
    body: Any, message: str, hint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match="tracing own: .*" + message) as refused:
        subject_of(body).trace(tmp_path / "traced.onnx")
    assert hint in str(refused.value.hint)
    assert ("data" in str(refused.value)) == (body is by_value)
    assert tuple(capfd.readouterr()) == ("", "")  # nor does torch print what it had traced by then


def test_a_module_that_fails_on_its_own_inputs_says_where() -> None:
    with pytest.raises(ExportError, match=r"raised IndexError: .* at .*test_trace_errors.py:\d+ `.*x\[:, 9\]"):
        subject_of(lambda s, x: x[:, 9])


def test_an_op_that_is_not_written_with_others_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotated(s: Any, x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(s.linear(x).reshape(-1, 6, 4, 2)) * 2j).flatten(2)

    def broken(*_: Any) -> Tensor:
        raise RecursionError("no end")

    monkeypatch.setitem(complex_ops._TABLE, torch.ops.aten.mul.Tensor, broken)
    message = r"aten\.mul\.Tensor has no ONNX form .*\(RecursionError: no end\) at .*\.py:\d+"
    with pytest.raises(ExportError, match=message) as refused:
        subject_of(rotated).trace(tmp_path / "traced.onnx")
    assert "other torch functions" in str(refused.value.hint)
