"""Traced graph -> the same graph, simpler, with every constant of the module in it.

torch.onnx's own optimiser takes a constant for 0 or 1 where it is within 1e-8 or 1e-5 of it (`+ 1e-9` and `* 1.000001`
are dropped), merges clamps as if their ranges overlapped (`relu(clamp(x, -3, -1))` becomes -1), and takes two slices
of an odd axis for a Split, whose first part is the longer one. What is used here is its folding, and those of its rules
that look at shapes, at types or at exact values.
"""

from __future__ import annotations

from typing import Any

import onnx_ir
import onnx_ir.passes.common as passes
from onnxscript import rewriter
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common

ROUNDS = 2  # folding makes room for rules, and these for folding; a third round finds nothing
_STRUCTURAL = (
    common.one_reshape_matmul_reshape_rule,
    common.two_reshapes_matmul_reshape_rule,
    common.cast_constant_of_shape_rule,
    common.cast_constant_of_shape_without_value_rule,
    common.collapse_slice_rule,
    common.collapse_slice2_rule,
    common.materialize_reshape_shape_rule,
    common.cast_cast_rule,
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.flatten_to_reshape_rule,  # in front of the next
    common.reshape_reshape_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.unsqueeze_unsqueeze_rule,
    common.squeeze_reshape_1d_rule,
    common.no_op_dynamic_scatter_nd_rule,
    common.no_op_static_scatter_nd_rule,
    common.normalize_pad_format_conv_rule,
    common.fuse_pad_into_conv_rule,
    common.fuse_batchnorm_into_conv_rule,
    common.fuse_batchnorm_into_conv_transpose_rule,
    common.fuse_batchnorm_into_gemm_rule,
    common.remove_optional_bias_from_conv_rule,
    common.remove_optional_bias_from_conv_transpose_rule,
    common.remove_optional_bias_from_gemm_rule,
)


def simplify(model: onnx_ir.Model) -> None:
    """Inlines, folds, and drops what does nothing, in place."""
    rules = pattern.RewriteRuleSet([*_no_ops(), *_STRUCTURAL])
    passes.InlinePass()(model)
    for _ in range(ROUNDS):
        fold_constants(model, onnx_shape_inference=True)
        rewriter.RewritePass(rules)(model)
        passes.RemoveUnusedNodesPass()(model)
    for last in (
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        last(model)


def _no_ops() -> list[pattern.RewriteRule]:
    """`x + 0`, `x - 0`, `x * 1` and `x / 1`, where the scalar is exactly that."""
    zero, one = (pattern.Constant(value, rel_tol=0.0, abs_tol=0.0) for value in (0, 1))
    added = pattern.RewriteRule(lambda op, x: op.Add(x, zero), _unchanged)
    scaled = pattern.RewriteRule(lambda op, x: op.Mul(x, one), _unchanged)
    taken = pattern.RewriteRule(lambda op, x: op.Sub(x, zero), _unchanged)
    divided = pattern.RewriteRule(lambda op, x: op.Div(x, one), _unchanged)
    return [*added.commute(), *scaled.commute(), taken, divided]


def _unchanged(op: Any, x: onnx_ir.Value) -> Any:
    return op.Identity(x)
