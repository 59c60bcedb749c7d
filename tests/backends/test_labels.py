"""Labels of models without a sampler of their own: the row behind the classes is nobody's, and no row lies before 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx.parser
import pytest

from dsr_export.backends.labels import with_labels
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from tests.pipelines.handmade import manifest_of

CLASSES = 3
TABLE = """<ir_version: 10, opset_import: ["" : 20]> table (int64[batch] y) => (float[batch] out)
<float[4] rows = {1, 2, 3, 4}> { out = Gather<axis=0>(rows, y) }"""


def test_labels_beyond_the_table_are_refused() -> None:
    model = onnx.parser.parse_model(TABLE)
    plain = manifest_of("table", model)
    manifest = replace(plain, model={**plain.model, "num_classes": CLASSES})
    runner: Any = with_labels(OnnxRuntimeRunner(model.SerializeToString(), inputs=manifest.inputs), manifest)
    made = runner.infer({"y": np.array([0, CLASSES])})
    np.testing.assert_array_equal(made["out"], [1, 4])
    for label in (-1, CLASSES + 1):
        with pytest.raises(ExportError, match=f"holds the label {label}") as caught:
            runner.infer({"y": np.array([0, label])})
        assert f"0 to {CLASSES}" in str(caught.value.hint)
