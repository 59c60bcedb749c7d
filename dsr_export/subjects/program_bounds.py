"""What running a program would take, found out before it runs: on tensors that have shapes and no memory.

A few bytes of graph can ask for any number of elements (`full`, `expand` and `clone`, a size squared again and again).
What a model makes on the way is bounded by what is stored with it, far more generously than any model needs.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dsr_export.errors import ExportError
from dsr_export.user_code.imported import described
from graphs.artifacts import TensorSpec

_SPARE_BYTES, _PER_STORED_BYTE = 1 << 30, 8
_LARGEST_NUMBER, _LARGEST_EXPONENT, _MOST_ROUNDS, _MOST_PIECES = 1 << 63, 64, 1000, 1 << 16


class _TooLargeError(ValueError):
    """An operator asks for more than a model needs."""


def check_cost(module: fx.GraphModule, inputs: tuple[TensorSpec, ...], batch: int, called: str) -> None:
    """Runs `module` without its memory, on inputs of `inputs`' shapes at `batch`.

    Raises:
        ExportError: it needs far more memory than its weights, sizes no tensor has, sizes that depend on values, or it
            can't be run at all.
    """
    stored = sum(each.untyped_storage().nbytes() for each in [*module.parameters(), *module.buffers()])
    watch = _Watch(_SPARE_BYTES + _PER_STORED_BYTE * stored)
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), watch:
            shapes = [[size if isinstance(size, int) else batch for size in spec.shape] for spec in inputs]
            watch.take([math.prod(shape) * 8 for shape in shapes])
            values = [torch.empty(shape, dtype=_dtype(spec)) for shape, spec in zip(shapes, inputs, strict=True)]
            _Bounded(module).run(*values, enable_io_processing=False)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        hint = "compute all rows and select with torch.where"
        raise ExportError(f"{called}: sizes in it depend on values ({described(error)})", hint=hint) from error
    except _TooLargeError as error:
        said = str(error).partition("\n")[0]  # the interpreter adds the node
        raise ExportError(f"{called} is refused: {said}", hint="export it from smaller inputs") from error
    except Exception as error:  # an operator raises whatever its arguments run it into
        hint = "export the module again; inputs of the shapes it says must fit"
        raise ExportError(f"{called} can't be run: {described(error)}", hint=hint) from error


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operators make, while they live."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.live = limit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        fresh = [] if func.is_view else [each for each in _flat(made) if isinstance(each, Tensor)]
        sizes = [each.untyped_storage().nbytes() for each in fresh]  # strides may leave out most of it
        self.take(sizes)
        for each, size in zip(fresh, sizes, strict=True):
            weakref.finalize(each, self._give, size)
        return made

    def take(self, sizes: list[int]) -> None:
        """Counts in. Raises where too much lives at once."""
        self.live += sum(sizes)
        if self.live > self.limit:
            raise _TooLargeError(f"it asks for {self.live >> 20} MiB at once, and {self.limit >> 20} MiB are allowed")

    def _give(self, size: int) -> None:
        self.live -= size


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [each for part in value for each in _flat(part)]
    return [value]


class _Bounded(fx.Interpreter):
    """Also the graphs within the graph; and numbers stay as small as sizes are."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(target, HigherOrderOperator):
            args = tuple(_Bounded(each).run if isinstance(each, fx.GraphModule) else each for each in args)
        elif not isinstance(target, OpOverload):
            return _arithmetic(target, args, kwargs)
        elif target is torch.ops.dsr.replace_outliers.default:
            _check_rounds([*args, *kwargs.values()])
        else:
            _check_pieces(str(target), args)
        return super().call_function(target, args, kwargs)


def _arithmetic(target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    numbers = [each for each in _flat(args) if not isinstance(each, Tensor)]
    known = all(isinstance(each, bool | int | float) for each in numbers)
    whole = any(isinstance(each, list | tuple) for each in args)
    if target.__name__ not in ("getitem", "sym_sum") and (kwargs or not known or whole):
        raise _TooLargeError(f"{target.__name__} of something that is no number")  # a list times n is long
    if target.__name__ == "pow" and not (abs(args[1]) <= _LARGEST_EXPONENT and abs(args[0]) <= _LARGEST_NUMBER):
        raise _TooLargeError("a power that no size has")
    made = target(*args, **kwargs)
    if isinstance(made, int) and abs(made) > _LARGEST_NUMBER:
        raise _TooLargeError("a number that is larger than any size")
    return made


def _check_rounds(args: list[Any]) -> None:
    if any(isinstance(each, int) and each > _MOST_ROUNDS for each in args):
        raise _TooLargeError(f"a replacement of more than {_MOST_ROUNDS} rounds")


def _check_pieces(target: str, args: Any) -> None:
    """Operators that return one tensor per row."""
    name = target.split(".")[1]
    tensors = [each for each in args if isinstance(each, Tensor)]
    many = tensors and max([*tensors[0].shape, 0]) > _MOST_PIECES
    if many and any(word in name for word in ("unbind", "split", "chunk")):
        raise _TooLargeError(f"{name} of an axis of {max(tensors[0].shape)}")
