"""PyTorch -> ONNX with `dsr` ops still symbolic, and every node named after the module it came from."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnxscript.values import Opset

import dsr_export.registers  # noqa: F401  (defines the torch ops that the translation table names)
from dsr_export.subject import Subject
from dsr_export.tracing.decompositions.node_by_node import spell_out
from dsr_export.tracing.exporting import Exported, export_program, lowered
from dsr_export.tracing.simplification import simplify
from dsr_export.tracing.trace_errors import module_path, refuse_data_dependent, trace_error
from dsr_export.tracing.translations.attention import attention_translation
from dsr_export.tracing.translations.choices import choice_translations
from dsr_export.tracing.translations.copies import copy_translations
from dsr_export.tracing.translations.gathers import gather_translations
from dsr_export.tracing.translations.sorts import sort_translations
from dsr_export.tracing.translations.stable import stable_translations
from dsr_export.tracing.translations.wanted_types import wanted_type_translations
from graphs.artifacts import TracedModel
from graphs.dsr.domain import DOMAIN, VERSION, register_schemas
from graphs.files import EXTERNAL_ABOVE, INLINE_BELOW

OPSET = 20  # TensorRT 10.3 ends near it, and every other target takes it


def trace(subject: Subject, path: Path, *, program: torch.export.ExportedProgram | None = None) -> TracedModel:
    """Writes the traced graph of `subject`, or of the `program` that it is already, to `path`.

    Raises:
        ExportError: the model can't be exported; the message names the cause, and the line it is at.
    """
    register_schemas()
    with torch.no_grad(), _quiet():
        if program:  # somebody's own, which is the reference as well: nothing is rewritten in it
            made = Exported(lowered(subject.name, program), subject.batch_limits)
        else:
            made = export_program(subject)
            spell_out(made.program)
        exported = _translate(subject, made.program)
        _give_way(exported.model.graph, subject)
        simplify(exported.model)
    _name_ends(exported.model.graph, subject)
    refuse_data_dependent(subject.name, exported.model)
    write_program(exported, path)
    return TracedModel(path=path, sites=subject.sites, batch_limits=made.limits, batch_reason=made.reason)


def _translate(subject: Subject, program: torch.export.ExportedProgram) -> Any:
    try:
        return torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            verbose=False,
            optimize=False,  # it would lose constants: see `simplification`
        )
    except RuntimeError as error:  # OnnxExporterError, or what its optimiser runs into
        raise trace_error(subject.name, error) from error


def _give_way(graph: onnx_ir.Graph, subject: Subject) -> None:
    """Renames each weight that is called as something else is, or is to be: onnx_ir's own pass stops at the third."""
    declared = {spec.name for spec in (*subject.inputs, *subject.outputs)}
    others = {value.name for value in (*graph.inputs, *(each for node in graph for each in node.outputs))} | declared
    taken = others | set(graph.initializers)
    for name in [name for name in graph.initializers if name in others]:
        free = next(each for i in count(1) if (each := f"{name}_{i}") not in taken)
        graph.initializers[name].name = free
        taken.add(free)


def _name_ends(graph: onnx_ir.Graph, subject: Subject) -> None:
    """Inputs and outputs by their declared names.

    The exporter gives one value one name, and an output may be an input, or another output; by now it is a value of
    its own.
    """
    for values, specs in ((graph.inputs, subject.inputs), (graph.outputs, subject.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name


def translations() -> dict[Any, Callable[..., Any]]:
    """torch op -> a function that makes its one `dsr` node; and those which the exporter translates wrongly."""
    dsr, standard = Opset(DOMAIN, VERSION), Opset("", OPSET)

    def replace(x, registers, choice, gate, bias, rule, threshold, rounds, choose, exclude):  # type: ignore[no-untyped-def]
        rows = {"exclude": list(exclude)} if exclude else {}  # an empty list has no type, which onnxscript would log
        return dsr.ReplaceOutliers(
            x, registers, choice, gate, bias, rule=rule, threshold=threshold, rounds=rounds, choice=choose, **rows
        )

    def shift(a, neurons, registers, scale, normal_values):  # type: ignore[no-untyped-def]
        return dsr.ShiftRegisterNeurons(
            a, neurons=list(neurons), registers=registers, scale=list(scale), normal_values=normal_values
        )

    def squeeze(x, dim):  # type: ignore[no-untyped-def]
        """torch leaves an axis alone whose size is not 1; an ONNX Squeeze of it is invalid."""
        keeps = x.shape is not None and (len(x.shape) == 0 or x.shape[dim] != 1)
        return standard.Identity(x) if keeps else standard.Squeeze(x, [dim])

    ops = torch.ops.dsr
    return {
        ops.replace_outliers.default: replace,
        ops.shift_register_neurons.default: shift,
        torch.ops.aten.squeeze.dim: squeeze,
        torch.ops.aten.scaled_dot_product_attention.default: attention_translation(standard),
        **stable_translations(),
        **sort_translations(),
        **gather_translations(),
        **copy_translations(),
        **choice_translations(),
        **wanted_type_translations(),
    }


def write_program(program: Any, path: Path) -> None:
    """Names the nodes of an exported ONNX program and writes it; large weights go beside it, never through a copy."""
    model = program.model
    name_nodes(model.graph)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < EXTERNAL_ABOVE:
        onnx_ir.save(model, path)
    else:
        onnx_ir.save(model, path, external_data=path.name + ".data", size_threshold_bytes=INLINE_BELOW)
    for value in model.graph.initializers.values():
        value.const_value = None  # the exporter keeps the program, and with it the weights, alive


def name_nodes(graph: onnx_ir.Graph) -> None:
    """Renames each node `<module path>/<op>_<k>` and its outputs likewise, since later tools drop metadata."""
    kept = {id(value) for value in graph.outputs}
    found: Counter[str] = Counter()
    for node in graph:
        stem = f"{module_path(node) or 'root'}/{node.op_type}"
        node.name = stem if not found[stem] else f"{stem}_{found[stem]}"
        found[stem] += 1
        for i, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if value.name and id(value) not in kept:
                value.name = node.name if i == 0 else f"{node.name}#{i}"
        node.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports progress, what it does not fold, and missing packages on stdout, stderr and by warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
