"""What went wrong in a trace, in the user's terms: the cause by its kind, the line it is at, and what helps."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import onnx_ir
from torch import fx

from dsr_export.errors import ExportError
from dsr_export.torch_versions import install_torch, installed_torch_problem
from dsr_export.user_code import lines as user_lines
from graphs.op_limits import ENGINE_OPS
from graphs.stage_specs import DATA_DEPENDENT

_DATA = (
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "UnsupportedOperatorException",
    "data-dependent",
    "Data-dependent",
)
_ON_DATA = (
    "a graph has one path and fixed shapes: write torch.where(mask, a, b) instead of x[mask] or masked_scatter, use a "
    "mask or a fixed size, and keep what does not depend on the inputs in buffers"
)
_NUMPY = "use torch functions only: numpy and Python numbers of a tensor's values leave the graph"
_OTHERS = "write it with other torch functions"
AS_THEY_ARE = (
    "use sizes as they are (x.shape[0], or -1 in a view) instead of numpy or Python numbers of them, and compute all "
    "rows at once instead of looping over them"
)
_BY_OP = {"flex_attention": "call scaled_dot_product_attention, with what the mask allows as a tensor of booleans"}
_RERUN = re.compile(r"While executing %.*?target=torch\.ops\.([\w.]+)", re.DOTALL)
"""How torch says at which op of a captured program an error was raised."""
_SCOPES = "pkg.torch.onnx.name_scopes"
_SEEN = "torch.export runs the module on symbolic tensors; see it whole with torch.export.export(module, inputs)"


def trace_error(name: str, error: BaseException) -> ExportError:
    """The `ExportError` for what torch.export or the ONNX exporter raised on the model `name`."""
    causes = list(_causes(error))
    node = next((found for cause in causes if (found := _node_of(cause))), None)
    if node is None and (rerun := _RERUN.search(str(error))) is not None:
        return _not_lowered(name, rerun[1], error)
    message, hint = _translation(causes, node) if node is not None else _capture(causes)
    line = user_lines.of_stack(node.meta.get("stack_trace")) if node is not None else user_lines.of_error(error)
    return ExportError(f"tracing {name}: {message}" + (f" at {line}" if line else ""), hint=_of_this_torch(hint))


def _of_this_torch(hint: str) -> str:
    """What helps, and before it, where the exporter is one that nobody tried, that another may do."""
    problem = installed_torch_problem()
    return f"{problem}, so first: {install_torch()}; then {hint}" if problem else hint


def _not_lowered(name: str, operator: str, error: BaseException) -> ExportError:
    """One op of a program that torch had captured could not be written with others."""
    said, _, stack = str(error).partition("While executing")
    line = user_lines.of_stack(stack)
    what = f"{operator} has no ONNX form for these arguments ({type(error).__name__}: {_short(said)})"
    return ExportError(f"tracing {name}: {what}" + (f" at {line}" if line else ""), hint=_of_this_torch(_OTHERS))


def refuse_data_dependent(name: str, model: onnx_ir.Model) -> None:
    """Raises the `ExportError` for the first op of the traced model `name` whose shape or path depends on data."""
    for node in model.graph:
        if node.op_type in DATA_DEPENDENT:
            line = user_lines.of_stack(node.metadata_props.get("pkg.torch.onnx.stack_trace"))
            module = module_path(node)
            raise ExportError(
                f"tracing {name}: the graph would depend on the values of a tensor ({node.op_type}"
                + (f" in module '{module}')" if module else ")")
                + (f" at {line}" if line else ""),
                hint=_ON_DATA if node.op_type == "NonZero" else ENGINE_OPS[node.op_type],
            )


def module_path(node: onnx_ir.Node) -> str:
    """`blocks.0.attn.qkv` from the exporter's list of scopes, whose last entry is the traced call itself."""
    scopes = [scope for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))[:-1] if scope]
    return str(scopes[-1]) if scopes else ""


def _capture(causes: list[BaseException]) -> tuple[str, str]:
    """torch.export itself failed."""
    cause = causes[-1]
    said = f"{type(cause).__name__}: {_short(cause)}"
    if any(mark in said or mark in type(each).__name__ for each in causes for mark in _DATA):
        return f"the graph would depend on the values of a tensor ({_short(cause, 120)})", _ON_DATA
    if "SymInt" in said or "SymFloat" in said:
        return f"the batch is needed as a Python number ({said})", AS_THEY_ARE
    if "numpy" in said:
        return f"numpy is called on a tensor ({said})", _NUMPY
    return said, _SEEN


def _translation(causes: list[BaseException], node: fx.Node) -> tuple[str, str]:
    """The program has an op that did not become ONNX."""
    operator = str(node.meta.get("original_aten") or node.target)
    module = _module_of(node)
    where = f" of module '{module}'" if module else ""
    if any(type(cause).__name__ == "DispatchError" for cause in causes):
        kind = "complex tensors" if "complex" in str(causes[-1]) else "its inputs"
        called = operator.split(".")[-2] if "." in operator else operator
        hint = _BY_OP.get(called, f"write {called} with other torch functions")
        return f"no ONNX translation of {operator}{where} for {kind}", hint
    said = f"{type(causes[-1]).__name__}: {_short(causes[-1])}"
    return f"{operator}{where} has no ONNX form for these arguments ({said})", _OTHERS


def _node_of(error: BaseException) -> fx.Node | None:
    """The node that the exporter was at: it is in a frame that the error passed through."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(node, fx.Node) and "exporter" in trace.tb_frame.f_code.co_filename:
            found = node
        trace = trace.tb_next
    return found


def _module_of(node: fx.Node) -> str:
    scopes = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return str(scopes[-1]) if scopes else ""


def _short(error: BaseException | str, most: int = 300) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text if len(text) <= most else f"{text[:most]}…"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
