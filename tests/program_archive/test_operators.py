"""Which operators a program may call."""

from __future__ import annotations

import pytest
import torch

import dsr_export.registers  # noqa: F401  (defines the dsr operators)
from dsr_export.program_archive.operators import is_allowed

NEEDED = """
    aten.linear.default aten.layer_norm.default aten.scaled_dot_product_attention.default aten.conv2d.default
    aten.conv2d.padding aten.add.Tensor aten.add_.Tensor aten.copy_.default aten.index_put_.default aten.to.dtype
    aten.gelu.default aten.div.Tensor_mode aten.einsum.default aten.rms_norm.default aten.group_norm.default
    aten.sym_size.int aten.__and__.Tensor aten.lift_fresh_copy.default aten.max.dim aten.randn_like.default
    aten._assert_tensor_metadata.default aten.upsample_nearest2d.vec dsr.replace_outliers.default
    prims.convert_element_type.default
"""
REFUSED = """
    aten.from_file.default aten.save.default aten.set_.source_Storage aten.set_.source_Tensor aten.resize_.default
    aten.record_stream.default aten.add.out aten.mul.left_t aten._print.default aten.warn.default aten.__class__.default
    aten.__init__.default aten.__dict__.x aten.add.nonsense aten.add.__class__ aten._foreach_add_.Scalar
    aten.requires_grad_.default aten.backward.default aten.data.default aten.to_mkldnn.default aten.eq.str
    prims.resize.default dsr.other.default inductor.resize_storage_bytes_.default debugprims.load_tensor.default
"""


@pytest.mark.parametrize("name", NEEDED.split())
def test_what_models_are_made_of(name: str) -> None:
    assert is_allowed(f"torch.ops.{name}")


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_no_model_needs(name: str) -> None:
    assert not is_allowed(f"torch.ops.{name}")


@pytest.mark.parametrize(
    "target", ["torch.hub.load", "math.exp", "os.system", "_operator.setitem", "", "#x:y", "torch"]
)
def test_functions_are_a_short_list(target: str) -> None:
    assert not is_allowed(target)


def test_nothing_that_is_allowed_takes_a_path_or_writes_elsewhere() -> None:
    """Over all that torch knows, by schema: text arguments, and what is written to."""
    texts, written = set(), set()
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        if namespace in ("aten", "prims") and is_allowed(f"torch.ops.{namespace}.{name}.{overload or 'default'}"):
            arguments = torch._C._get_schema(f"{namespace}::{name}", overload).arguments
            texts |= {each.name for each in arguments if "str" in str(each.type)}
            written |= {each.name for each in arguments[1:] if each.alias_info and each.alias_info.is_write}
    known = {"approximate", "rounding_mode", "equation", "padding", "mode", "indexing", "reduce", "side", "norm"}
    assert texts <= known | {"interpolation", "assert_msg", "ord"}
    assert not written
