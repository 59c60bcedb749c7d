"""Which block a launch counts for."""

from __future__ import annotations

import pytest

from dsr_export.engine_schedule.blocks import block_of_most, blocks_of

NODES = [
    "blocks.0.attn/MatMul",
    "blocks.0/Add",
    "blocks.1.mlp.w12/MatMul",
    "final.1/Gemm",
    "root/Transpose",
    "encoder.layers.3.norm/Pow",
    "dsr/type/cast/blocks.11.attn/Softmax.float16",
]


def test_blocks_are_numbered_modules_with_modules_inside() -> None:
    assert blocks_of(NODES) == {"blocks.0", "blocks.1", "blocks.11", "encoder.layers.3"}


@pytest.mark.parametrize(
    ("nodes", "block"),
    [
        (["blocks.0.attn/MatMul", "rope/Mul", "rope/Add", "root/Slice"], "blocks.0"),
        (["blocks.0/Add", "blocks.1.norm/Pow", "blocks.1.norm/Mul"], "blocks.1"),
        (["blocks.0.ada/Gemm", "blocks.1.ada/Gemm", "blocks.11.ada/Gemm"], None),
        (["final.1/Gemm"], "final"),
        (["dsr/type/cast/blocks.1/Add.float"], "blocks.1"),
        (["dsr/type/cast/x.float16"], "root"),
        (["dsr/quantize/encoder.layers.3.mlp/values"], "encoder.layers.3"),
        ([], None),
    ],
)
def test_most_of_a_launch_decides(nodes: list[str], block: str | None) -> None:
    assert block_of_most(nodes, blocks_of(NODES)) == block
