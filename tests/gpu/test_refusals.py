"""What no GPU may do on the quiet: a device that is not there."""

from __future__ import annotations

import pytest

from dsr_export.backends.cuda.driver import open_cuda
from dsr_export.errors import RunnerError

pytestmark = pytest.mark.gpu


def test_a_gpu_of_another_index_is_refused(capability: str) -> None:
    pytest.importorskip("cuda.bindings", reason="needs the package cuda-bindings")
    with pytest.raises(RunnerError, match="no GPU with the index 99"):
        open_cuda(99)
