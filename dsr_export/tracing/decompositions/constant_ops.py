"""Values and shapes that depend on constants only, worked out while the module is traced.

torch.export knows of a buffer no more than its shape: `x[:, mask]`, `nonzero(mask)`, `int(mask.sum())` and
`if mask.any()` depend on data for it, and become NonZero or an error. Here every tensor that is made of weights and
buffers alone has a real one beside it, which answers such questions, so that indices become static.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import SymInt, Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from dsr_export.tracing.forward_modes import under

_ANSWERS = frozenset(
    {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "is_nonzero", "equal"}
    | {"allclose", "nonzero", "argwhere", "unique", "unique_consecutive", "bincount", "masked_select"}
    | {"repeat_interleave"}
)
_FACTORED = frozenset(
    {"cholesky", "det", "eig", "eigh", "eigvalsh", "householder_product", "inv", "inverse", "lstsq", "lu", "lu_factor"}
    | {"matrix_exp", "matrix_power", "pinv", "pinverse", "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals"}
)
"""Of matrices: ONNX has no op for them, and needs none where the matrix is a weight, as in orthogonal layers."""
_MAKERS = frozenset({"arange", "eye", "full", "linspace", "ones", "zeros", "tensor", "as_tensor"})
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_INDEX_OPS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


def needs_values(program: ExportedProgram) -> bool:
    """Whether a size depends on values, elements are chosen by a mask, or a matrix is taken apart."""
    return any(_is_data_dependent(node) or _is_factored(node) for node in program.graph.nodes)


@contextlib.contextmanager
def folding_constants(module: nn.Module) -> Iterator[None]:
    """Within the block, `module` is traced with the values of its constants at hand."""
    real = dict(_tensors(module))

    def values() -> _Constants:
        return _Constants([(tensor, real[path]) for path, tensor in _tensors(module) if path in real])

    with under(module, values):
        yield


class _Constants(TorchFunctionMode):
    """`real` has, by the id of a tensor that is being traced, that tensor and its values."""

    def __init__(self, constants: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.real = {id(traced): (traced, values) for traced, values in constants}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _INDEXING:
            args = (args[0], self._with_numbers(args[1]), *args[2:])
        given = pytree.tree_leaves((args, kwargs))
        name = getattr(func, "__name__", "")
        if not self._are_constant(given, name):
            if _writes(name):
                self._forget(args[0])
            if name == "repeat_interleave" and (repeated := self._repeated(*args, **kwargs)) is not None:
                return repeated
            return func(*self._with_static_indices(func, args), **kwargs)
        if name in _ANSWERS or _plain_name(name) in _FACTORED or (name == "where" and len(args) + len(kwargs) == 1):
            return self._lifted(self._evaluated(func, args, kwargs))
        values = self._try(func, args, kwargs)
        made = func(*self._with_static_indices(func, args), **kwargs)
        self._remember(made, values)
        return made

    def _are_constant(self, given: list[Any], name: str) -> bool:
        if any(isinstance(each, SymInt) for each in given):
            return False
        tensors = [each for each in given if isinstance(each, Tensor)]
        return all(self._is_known(each) for each in tensors) if tensors else name in _MAKERS

    def _is_known(self, tensor: Tensor) -> bool:
        """Whether its values are at hand; so they are of a real one, which the code holds in a list or a global."""
        if id(tensor) not in self.real and type(tensor) in (Tensor, nn.Parameter):
            self.real[id(tensor)] = tensor, tensor
        return id(tensor) in self.real

    def _with_static_indices(self, func: Any, args: Any) -> Any:
        """Constant masks as the positions where they hold."""
        if func not in _INDEXING:
            return args
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if not any(self._is_mask(each) for each in index):
            return args
        spread = [part for each in index for part in (self._positions(each) if self._is_mask(each) else (each,))]
        return (args[0], tuple(spread), *args[2:])

    def _with_numbers(self, index: Any) -> Any:
        """Constant tensors that bound slices as the numbers that they are."""
        if isinstance(index, tuple):
            return tuple(self._with_numbers(each) for each in index)
        if not isinstance(index, slice):
            return index
        return slice(*(self._number(each) for each in (index.start, index.stop, index.step)))

    def _number(self, bound: Any) -> Any:
        return int(self.real[id(bound)][1]) if isinstance(bound, Tensor) and self._is_known(bound) else bound

    def _is_mask(self, index: Any) -> bool:
        return isinstance(index, Tensor) and index.dtype == torch.bool and self._is_known(index)

    def _positions(self, mask: Tensor) -> Any:
        with _really():
            found = self.real[id(mask)][1].nonzero(as_tuple=True)
        return self._lifted(found)

    def _repeated(self, x: Any, repeats: Any, dim: int | None = None, **_: Any) -> Any:
        """Rows chosen by constant positions; None where the numbers of repetitions are no constant tensor."""
        if not isinstance(repeats, Tensor) or not self._is_known(repeats) or dim is None:
            return None
        with _really():
            counts = self.real[id(repeats)][1].expand(x.shape[dim])
            positions = torch.arange(len(counts)).repeat_interleave(counts)
        return torch.index_select(x, dim, self._lifted(positions))

    def _evaluated(self, func: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, lambda each: self.real[id(each)][1], (args, kwargs))
        with _really():
            return func(*args, **kwargs)

    def _try(self, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            return self._evaluated(func, args, kwargs)
        except Exception as error:  # what it raises on values, it raises again while it is traced, if it matters
            return error

    def _lifted(self, values: Any) -> Any:
        """Constants of the graph with these values; numbers as they are."""

        def lift(each: Tensor) -> Tensor:
            made: Tensor = torch.ops.aten.lift_fresh_copy.default(each)
            self.real[id(made)] = made, each
            return made

        return pytree.tree_map_only(Tensor, lift, values)

    def _remember(self, made: Any, values: Any) -> None:
        pairs = zip(pytree.tree_leaves(made), pytree.tree_leaves(values), strict=False)
        for traced, each in pairs:
            if isinstance(traced, Tensor) and isinstance(each, Tensor):
                self.real[id(traced)] = traced, each

    def _forget(self, written: Any) -> None:
        """What is written into becomes an unknown, and so does all that shares its memory."""
        if id(written) in self.real:
            memory = self.real[id(written)][1].untyped_storage().data_ptr()
            shared = [key for key, (_, each) in self.real.items() if each.untyped_storage().data_ptr() == memory]
            for key in shared:
                del self.real[key]


@contextlib.contextmanager
def _really() -> Iterator[None]:
    """Computes, and traces nothing."""
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
        yield


def _tensors(module: nn.Module) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for path, each in module.named_modules(remove_duplicate=False):
        for held in (each._parameters, each._buffers, each.__dict__):
            for name, value in held.items():
                if isinstance(value, Tensor):
                    yield (path, name), value


def _writes(name: str) -> bool:
    return name == "__setitem__" or (name.startswith("__i") and name.endswith("__")) or name.rstrip("_") + "_" == name


def _is_data_dependent(node: torch.fx.Node) -> bool:
    if any(free_unbacked_symbols(value) for value in pytree.tree_leaves(node.meta.get("val")) if _has_size(value)):
        return True
    if node.target is torch.ops.aten.repeat_interleave.self_Tensor:  # which has no tag
        return True
    if {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(getattr(node.target, "tags", ())):
        return node.target is not torch.ops.aten.index.Tensor or _has_mask(node)
    return node.target in _INDEX_OPS and _has_mask(node)


def _is_factored(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and _plain_name(schema.name.split("::")[-1]) in _FACTORED


def _plain_name(name: str) -> str:
    """`linalg_inv_ex` and the like, as `inv`."""
    return name.strip("_").removeprefix("linalg_").removesuffix("_ex")


def _has_mask(node: torch.fx.Node) -> bool:
    values = [each.meta.get("val") for each in node.args[1] if each is not None]  # type: ignore[union-attr]
    return any(isinstance(value, Tensor) and value.dtype == torch.bool for value in values)


def _has_size(value: Any) -> bool:
    return isinstance(value, Tensor | SymInt)
