"""The token axis is followed to where the tokens really are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.structure.pinned_shapes import PINNED, pinned_graph
from graphs.structure.token_axes import output_marks
from graphs.structure.token_axis import CannotFollow, TokenAxis, moved

N, LONGER = 16, 19


@given(st.data())
def test_a_reshape_puts_the_tokens_where_their_labels_say(data: st.DataObject) -> None:
    """Labels each element with its token, reshapes for real, and reads the labels along the axis that was found."""
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    axis = data.draw(st.integers(0, len(sizes) - 1))
    tokens = data.draw(st.sampled_from([2, 3, 4, 6]))
    sizes[axis] = tokens
    after = data.draw(st.sampled_from(_reshapes(math.prod(sizes))))
    labels = np.indices(sizes)[axis].reshape(after)
    try:
        at, mark = moved(sizes, axis, TokenAxis(), after, tokens)
    except CannotFollow:
        assert not any(_holds(labels, i, size, tokens) for i, size in enumerate(after))
        return
    assert mark.size(tokens) == after[at]
    found = np.moveaxis(np.indices(after), 0, -1)[..., at] // mark.inner % tokens
    assert (found == labels).all()


def _reshapes(total: int) -> list[tuple[int, ...]]:
    divisors = [size for size in range(1, total + 1) if total % size == 0]
    pairs = [(a, total // a) for a in divisors]
    return [*pairs, *((a, b, total // a // b) for a in divisors for b in divisors if total // a % b == 0)]


def _holds(labels: np.ndarray, axis: int, size: int, tokens: int) -> bool:
    """Whether the index along one axis alone tells the token."""
    rows = np.moveaxis(labels, axis, 0).reshape(size, -1)
    return size % tokens == 0 and bool((rows == rows[:, :1]).all())


def test_heads_and_channels_as_many_as_tokens_are_told_apart() -> None:
    assert moved((PINNED, 16, 256), 1, TokenAxis(), (PINNED, 16, 16, 16), 16) == (1, TokenAxis())
    assert moved((PINNED, 16, 16, 16), 2, TokenAxis(), (PINNED * 16, 16, 16), 16) == (1, TokenAxis())
    assert moved((PINNED, 16, 16), 1, TokenAxis(), (PINNED * 16, 16), 16) == (0, TokenAxis(outer=PINNED))
    with pytest.raises(CannotFollow, match=r"breaks the token axis up, from \[batch, 16, 8\] to \[batch, 4, 4, 8\]"):
        moved((PINNED, 16, 8), 1, TokenAxis(), (PINNED, 4, 4, 8), 16)


FOLLOWED = {
    "elementwise": "y = Gelu(x)",
    "broadcast": "y = Mul(x, row)",
    "gate": "g = ReduceMean<keepdims=1>(x, last) y = Div(x, g)",
    "scores": "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) y = Softmax(s)",
    "weighted sum": "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) y = MatMul(s, x)",
    "linear": "y = MatMul(x, w)",
    "flat linear": "f = Reshape(x, flat) g = Gemm(f, w, row) y = Reshape(g, whole)",
    "heads": "h = Reshape(x, heads) y = Transpose<perm=[0,2,1,3]>(h)",
    "norm": "y = LayerNormalization(x, row)",
    "halves": "y, z = Split<axis=2, num_outputs=2>(x)",
    "joined": "y = Concat<axis=2>(x, x)",
    "prefix and rest": "p = Slice(x, first1, two1, one1) r = Slice(x, two1, endless, one1) y = Concat<axis=1>(p, r)",
    "rest": "y = Slice(x, two1, endless, one1)",
    "first row": "y = Gather<axis=1>(x, first)",
    "rows from the front": "y = Slice(x, first1, two1, one1)",
    "squeezed": "u = Unsqueeze(x, one1) y = Squeeze(u, one1)",
    "extended": "u = Unsqueeze(x, one1) y = Expand(u, repeat)",
}


def _nodes(folder: Path, tokens: int, body: str):  # type: ignore[no-untyped-def]
    text = f'<ir_version: 10, opset_import: ["":20]> g (float[B,{tokens},16] x) => (float[a] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    arrays = {
        "row": np.ones(16, np.float32), "w": np.ones((16, 16), np.float32), "last": np.array([-1]),
        "flat": np.array([-1, 16]), "whole": np.array([-1, tokens, 16]), "heads": np.array([-1, tokens, 4, 4]),
        "first": np.array(0), "first1": np.array([0]), "one1": np.array([1]), "two1": np.array([2]),
        "endless": np.array([2**63 - 1]), "repeat": np.array([1, 3, 1, 1]),
    }  # fmt: skip
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in arrays.items() if k in used)
    return pinned_graph(model, folder).nodes


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_is_followed_has_the_shape_of_a_longer_export(tmp_path: Path, case: str) -> None:
    short, longer = (_nodes(tmp_path, tokens, FOLLOWED[case]) for tokens in (N, LONGER))
    marks = {"x": {1: TokenAxis()}}
    for node, exported in zip(short, longer, strict=True):
        made = output_marks(node, [marks.get(tensor.name, {}) for tensor in node.inputs], N)
        for tensor, expected, its in zip(node.outputs, exported.outputs, made, strict=True):
            marks[tensor.name] = dict(its)
            sizes = [its[i].size(LONGER) if i in its else size for i, size in enumerate(tensor.shape)]
            assert sizes == list(expected.shape), node.name


LOST = {
    "t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w)": "mixes the tokens by a weight of fixed size",
    "y = ReduceMean<keepdims=0>(x, one1)": "takes its statistics over the tokens",
    "y = LayerNormalization<axis=1>(x, w)": "takes its statistics over the tokens",
    "y = Concat<axis=1>(x, x)": "joins other rows to the tokens",
    "r = Slice(x, two1, endless, one1) y = Concat<axis=1>(r, r)": "joins other rows to the tokens",
    "y, z = Split<axis=1, num_outputs=2>(x)": "splits the tokens",
    "y = Gather<axis=1>(x, last)": "not counted from the first token",
    "y = Slice(x, one1, last, one1)": "not counted from the first token",
    "t = Transpose<perm=[0,2,1]>(x) y = Add(x, t)": "has a row for each token",
    "y = Mul(x, w)": "'w' [16, 16] has a row for each token",
    "y = TopK(x, two1)": "no rule for what TopK does",
}


@pytest.mark.parametrize("body", LOST)
def test_what_would_not_take_more_tokens_says_why(tmp_path: Path, body: str) -> None:
    body = body.replace("y = TopK", "y, z = TopK")
    *before, last = _nodes(tmp_path, N, body)
    marks = {"x": {1: TokenAxis()}}
    for node in before:
        marks[node.outputs[0].name] = dict(output_marks(node, [marks.get(t.name, {}) for t in node.inputs], N)[0])
    with pytest.raises(CannotFollow) as lost:
        output_marks(last, [marks.get(tensor.name, {}) for tensor in last.inputs], N)
    assert LOST[body.replace("y, z = TopK", "y = TopK")] in str(lost.value)
