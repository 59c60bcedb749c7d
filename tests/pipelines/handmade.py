"""A pipeline's bundle put together by hand of three small graphs: everything but the models is real.

PixArt's form: T5's states with a mask, latents [2, 4, 4], pictures of 8 x 8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsr_export.bundle.components import component_contents, component_entry
from dsr_export.bundle.manifest import BundleTarget, Manifest
from dsr_export.bundle.pipeline_record import PipelineRecord, TextRecord, VaeRecord
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import BatchRange
from graphs.artifacts import TensorSpec
from tests.pipelines.tokenizers_made import SIZE, t5_tokenizer

TOKENS, WIDTH, CHANNELS, SIDE = 6, 3, 2, 4
SCALING, SHIFT = 0.5, 0.25
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 2.0}
Array = npt.NDArray[Any]
_RNG = np.random.default_rng(1)
TABLE = _RNG.standard_normal((SIZE, WIDTH)).astype(np.float32)
MIX = _RNG.standard_normal((WIDTH, CHANNELS)).astype(np.float32)
PAINT = _RNG.standard_normal((CHANNELS, 3, 2, 2)).astype(np.float32)
Shape = tuple[int | str, ...]


def encoded(ids: Array, mask: Array) -> Array:
    """What the text encoder makes of ids and mask [n, 6]: [n, 6, 3]."""
    return np.asarray(TABLE[ids] * mask[..., None], np.float32)


def predicted(latent: Array, states: Array, mask: Array, time: Array) -> Array:
    """What the transformer makes: [n, 2, 4, 4]."""
    told = (states * mask[..., None]).sum(1) @ MIX + time[:, None] / 1000
    return np.asarray(latent * 0.5 + told[:, :, None, None], np.float32)


def painted(z: Array) -> Array:
    """What the decoder makes: each cell becomes 2 x 2 pixels."""
    count, _, height, width = z.shape
    cells = np.einsum("nchw,cdab->ndhawb", z, PAINT)
    return np.asarray(cells.reshape(count, 3, 2 * height, 2 * width), np.float32)


def pipeline_bundle(folder: Path, *, record: Mapping[str, Any] | None = None) -> Path:
    """Writes it; `record` changes fields of the pipeline's record."""
    encoder = _written(folder / "t5.dsr", "t5", _encoder())
    decoder = _written(folder / "vae.dsr", "vae", _decoder())
    parts = {"text_encoder": encoder, "vae": decoder}
    tokenizer = t5_tokenizer(folder / "tokenizer")
    contents: dict[str, Any] = {"model.onnx": _transformer().SerializeToString(), "report.json": b'{"passed": true}'}
    contents |= {f"pipeline/tokenizer/{file.name}": file for file in tokenizer.iterdir()}
    contents["pipeline/scheduler_config.json"] = json.dumps(SCHEDULER).encode()
    for role, part in parts.items():
        contents |= component_contents(role, part.path, part.manifest)
    said = PipelineRecord(
        class_name="PixArtAlphaPipeline",
        text={"text_encoder": TextRecord(tokenizer="tokenizer", tokens=TOKENS)},
        vae=VaeRecord(scaling_factor=SCALING, shift_factor=SHIFT, scale=2),
    )
    manifest = replace(
        manifest_of("transformer", _transformer()),
        components={role: component_entry(role, part.manifest) for role, part in parts.items()},
        pipeline=replace(said, **(record or {})),
    )
    return write_bundle(folder / "pipe.dsr", manifest, contents)


def _written(out: Path, name: str, model: onnx.ModelProto) -> Bundle:
    contents: dict[str, Any] = {"model.onnx": model.SerializeToString(), "report.json": b'{"passed": true}'}
    return Bundle.open(write_bundle(out, manifest_of(name, model), contents))


def manifest_of(name: str, model: onnx.ModelProto, **config: Any) -> Manifest:
    """As a build writes it; `config` is the model's."""
    return Manifest(
        name=name,
        model={"name": name, "family": "handmade", "config": {"vocab_size": SIZE, **config}, "num_classes": 0},
        dsr={},
        precision="fp32",
        targets=(BundleTarget(name="onnxruntime", backend="onnxruntime", version="1"),),
        inputs=tuple(_spec(value) for value in model.graph.input),
        outputs=tuple(_spec(value) for value in model.graph.output),
        batch=BatchRange(1, 2, 3),
        sampler=None,
        tolerances={"max_abs": None, "cosine": 0.9, "psnr_db": 40.0, "snr_db": 40.0, "reason": "by hand"},
        tools={},
        provenance={},
        build_key=name,
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape=shape)


def _encoder() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["embeds"]),
    ]
    ids = dict.fromkeys(("ids", "mask"), (TensorProto.INT64, ("batch", TOKENS)))
    made = {"embeds": ("batch", TOKENS, WIDTH)}
    return _model(nodes, ids, made, {"table": TABLE, "last": np.array([-1])})


def _transformer() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["encoder_attention_mask", "last"], ["column"]),
        helper.make_node("Mul", ["encoder_hidden_states", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "mix"], ["mixed"]),
        helper.make_node("Div", ["timestep", "thousand"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "last"], ["shares"]),
        helper.make_node("Add", ["mixed", "shares"], ["told"]),
        helper.make_node("Unsqueeze", ["told", "sides"], ["cells"]),
        helper.make_node("Mul", ["hidden_states", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "cells"], ["out"]),
    ]
    shapes: dict[str, Shape] = {
        "hidden_states": ("batch", CHANNELS, SIDE, SIDE),
        "encoder_hidden_states": ("batch", TOKENS, WIDTH),
        "timestep": ("batch",),
        "encoder_attention_mask": ("batch", TOKENS),
    }
    constants = {"last": np.array([-1]), "tokens": np.array([1]), "sides": np.array([2, 3]), "mix": MIX}
    constants |= {"thousand": np.float32(1000), "half": np.float32(0.5)}
    floats = {name: (TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    return _model(nodes, floats, {"out": shapes["hidden_states"]}, constants)


def _decoder() -> onnx.ModelProto:
    nodes = [helper.make_node("ConvTranspose", ["z", "paint"], ["image"], strides=[2, 2])]
    z = {"z": (TensorProto.FLOAT, ("batch", CHANNELS, SIDE, SIDE))}
    return _model(nodes, z, {"image": ("batch", 3, 2 * SIDE, 2 * SIDE)}, {"paint": PAINT})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Any],
) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", given, made, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
