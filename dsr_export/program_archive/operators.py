"""The operators that a model needs. Any other is refused: some read and write files, or hand out memory.

An operator is taken by its name and by its schema: no overload that writes to its arguments (but for the in-place form
of a name in the list, which writes to its first), none that takes text (but for those whose text is a word like a
rounding mode), and none that takes a stream or a storage.
"""

from __future__ import annotations

from functools import cache

import torch


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ATEN = (
    # numbers, one by one
    _names("""
    abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh
    atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu
    clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1
    fix float_power floor floor_divide fmax fmin fmod frac ge gelu greater greater_equal gt hardshrink hardsigmoid
    hardswish hardtanh heaviside hypot i0 isclose isfinite isinf isnan isneginf isposinf isreal le leaky_relu lerp less
    less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or
    logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative nextafter not_equal
    positive pow prelu rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin
    sinc sinh softplus softshrink sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy
    special_erf special_exp2 special_expit special_expm1 special_i0 special_log1p special_log_softmax special_logit
    special_round special_sinc special_softmax __and__ __or__ __xor__ __lshift__ __rshift__
    """)
    # sums and the like
    | _names("""
    _log_softmax _safe_softmax _softmax all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin
    cumprod cumsum diff frobenius_norm kthvalue linalg_norm linalg_vector_norm log_softmax logcumsumexp logsumexp max
    mean median min mode nanmean nanmedian nansum norm prod quantile sort softmax std std_mean sum topk trapezoid var
    var_mean
    """)
    # products, convolutions, attention, norms
    | _names("""
    _convolution _native_batch_norm_legit_no_training _fused_rms_norm _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention_for_cpu _trilinear _weight_norm addbmm addmm addmv addr baddbmm batch_norm
    bilinear bmm chain_matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    cosine_similarity cross dot einsum embedding ger group_norm inner instance_norm kron layer_norm linalg_cross
    linalg_matmul linalg_vecdot linear matmul mm mv native_batch_norm native_group_norm native_layer_norm outer
    rms_norm scaled_dot_product_attention tensordot vdot
    """)
    # pooling, sampling, padding
    | _names("""
    _adaptive_avg_pool2d _adaptive_avg_pool3d _pad_circular _pad_enum _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d affine_grid_generator avg_pool1d
    avg_pool2d avg_pool3d channel_shuffle col2im constant_pad_nd glu grid_sampler grid_sampler_2d grid_sampler_3d
    im2col max_pool1d max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices pad pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d
    """)
    # shapes, types, places
    | _names("""
    _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
    _local_scalar_dense _reshape_alias _shape_as_tensor _to_copy _unsafe_index _unsafe_index_put _unsafe_view alias
    arange as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to bucketize
    cartesian_prod cat chunk clone column_stack combinations concat concatenate contiguous copy detach diag diag_embed
    diagonal diagonal_copy diagonal_scatter dsplit dstack empty empty_like empty_permuted empty_strided expand expand_as
    expand_copy eye fill flatten flip fliplr flipud full full_like gather hsplit hstack index index_add index_copy
    index_fill index_put index_select is_floating_point is_nonzero isin item lift lift_fresh lift_fresh_copy linspace
    logspace masked_scatter masked_select meshgrid moveaxis movedim narrow narrow_copy new_empty new_empty_strided
    new_full new_ones new_zeros nonzero nonzero_numpy numel numpy_T mT matrix_H ones ones_like one_hot permute
    permute_copy ravel repeat repeat_interleave reshape reshape_as resolve_conj resolve_neg roll rot90 scalar_tensor
    scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter size slice slice_copy
    slice_scatter split split_copy split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack swapaxes swapdims
    sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride
    t t_copy take take_along_dim tensor_split tile to trace transpose transpose_copy tril tril_indices triu triu_indices
    type_as unbind unbind_copy unflatten unfold unfold_copy unique_consecutive unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze unsqueeze_copy vander view view_as view_as_complex view_as_complex_copy
    view_as_real view_as_real_copy view_copy vsplit vstack zero zeros zeros_like complex polar real imag conj
    conj_physical _conj _conj_physical _neg_view
    """)
    # Fourier layers
    | _names("""
    _fft_c2c _fft_c2r _fft_r2c fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn
    fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn
    """)
    # random numbers: identity in eval mode, and what draws is told so by name later on
    | _names("""
    alpha_dropout bernoulli dropout feature_alpha_dropout feature_dropout native_dropout normal normal_functional rand
    rand_like randint randint_like randn randn_like randperm
    """)
)
_IN_PLACE_ONLY = frozenset({"copy", "detach", "exponential", "uniform"})  # whose functional form is another or none
_PRIMS = _names("convert_element_type device_put broadcast_in_dim iota transpose where")
_WORDS = _names("""
    gelu div divide einsum conv1d conv2d conv3d pad meshgrid scatter scatter_reduce searchsorted quantile linalg_norm
    _assert_scalar _assert_async _functional_assert_scalar _functional_assert_async
""") | {name for name in _ATEN if name.startswith("fft")}  # whose text is a word: a rounding, a mode, a message
_HANDLES = ("Stream", "Storage", "Dict", "Any", "Future", "__torch__", "QScheme")
_OTHER = _names("""
    torch.ops.dsr.replace_outliers.default torch.ops.dsr.shift_register_neurons.default
    torch.ops.higher_order.wrap_with_set_grad_enabled torch.ops.higher_order.wrap_with_autocast
    _operator.add _operator.sub _operator.mul _operator.floordiv _operator.truediv _operator.mod _operator.pow
    _operator.neg _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge _operator.and_
    _operator.or_ _operator.not_ _operator.getitem math.ceil math.floor math.trunc math.sqrt math.pow
    torch.sym_max torch.sym_min torch.sym_not torch.sym_int torch.sym_float torch.sym_ite torch.sym_sum
""")


@cache
def is_allowed(target: str) -> bool:
    """Whether a node may call `target`, as `torch.export.save` spells it. Resolves no name of the archive's."""
    if target in _OTHER:
        return True
    parts = target.split(".")
    if len(parts) != 5 or parts[:2] != ["torch", "ops"]:
        return False
    namespace, name, overload = parts[2:]
    pure = name.removesuffix("_") if not name.endswith("__") else name
    allowed = {"aten": _ATEN | _IN_PLACE_ONLY, "prims": _PRIMS}.get(namespace, frozenset[str]())
    return pure in allowed and _is_harmless(namespace, name, overload, in_place=pure != name)


def _is_harmless(namespace: str, name: str, overload: str, *, in_place: bool) -> bool:
    called = "" if overload == "default" else overload
    full = f"{namespace}::{name}"
    if (f"{full}.{called}" if called else full) not in _dispatched():
        return False  # also what only TorchScript knows: operators on lists and strings
    schema = torch._C._get_schema(full, called)
    if "out" in overload.split("_") or (schema.is_mutable and not in_place):
        return False
    types = [str(argument.type) for argument in schema.arguments]
    written = [i for i, each in enumerate(schema.arguments) if each.alias_info and each.alias_info.is_write]
    text = any("str" in each for each in types) and name.removesuffix("_") not in _WORDS
    handles = any(handle in each for each in types for handle in _HANDLES)
    return written in ([], [0]) and not text and not handles


@cache
def _dispatched() -> frozenset[str]:
    return frozenset(torch._C._dispatch_get_all_op_names())
