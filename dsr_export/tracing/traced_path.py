"""PyTorch's modules on the path that a trace follows, wherever the user's module runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def traced_path() -> Iterator[None]:
    """Within the block, `nn.MultiheadAttention` and `nn.TransformerEncoder` compute what their Python code says.

    In eval mode they take a fused kernel instead, which a trace never does, and whose answer is another one: NaN for
    a row that is padding only, where the code gives 0, and fewer tokens where a whole batch is padded at its end.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
