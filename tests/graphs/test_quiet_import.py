"""What graphsurgeon cannot name it prints to stdout, which is where commands answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_graphsurgeon.logger import G_LOGGER

from graphs.files import load_inferred_graph, save_model
from tests.graphs.optimizing import parsed

MODEL = """\
g (float[batch, 2] x) => (float[batch, 2] out) {
  half = Cast<to = 16>(x)
  out = Cast<to = 1>(half)
}
"""


def test_a_type_that_numpy_lacks_is_no_word_on_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    G_LOGGER.once_logged.clear()  # or another test has had the warning
    graph = load_inferred_graph(save_model(parsed(MODEL, {}), tmp_path / "model.onnx"))
    assert str(graph.tensors()["half"].dtype) == "bfloat16"
    assert tuple(capfd.readouterr()) == ("", "")
