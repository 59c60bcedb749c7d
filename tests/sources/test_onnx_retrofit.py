"""`--dsr` for an ONNX file: sites inserted into graphs of every family, against the modules that have them natively."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.sources import find_source
from dsr_export.subject import Subject
from dsr_export.subjects.onnx_graph import OnnxSubject
from graphs.lowering import lower
from tests.conftest import Cli
from tests.graphs.plain_vit import export, plain_vit

TOLERANCE = 1e-4  # FP32, reassociation only
REPLACE = '[[denoiser.replace]]\nlayers = [{layers}]\nrule = "median"\nthreshold = 1.15\nrounds = 2\n{choice}\n'
CLIP = REPLACE.format(layers="0, 1", choice='choice = "clip"')
TEST_TIME = '[encoder]\nkind = "test-time"\nregisters = 2\nscale = [1.0, 0.5]\nneurons = "n.json"\n'
SIZES = {"hidden_size": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
DIFFUSERS = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 12, "in_channels": 4, "sample_size": 8}
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {"joint_attention_dim": 24, "pooled_projection_dim": 20, "text_tokens": 5}

DENOISERS: Mapping[str, dict[str, Any]] = {
    "rae-dit": {"input_size": 4, "in_channels": 8, **SIZES},
    "dit": {"patch_size": 2, "input_size": 8, "in_channels": 4, **SIZES},
    "sit": {"patch_size": 2, "input_size": 8, "in_channels": 4, **SIZES},
    "jit": {"patch_size": 2, "input_size": 8, "in_channels": 3, "bottleneck_dim": 8, **SIZES},
    "diffusers-dit": {"num_embeds_ada_norm": 10, **DIFFUSERS},
    "pixart": {"caption_channels": 24, "text_tokens": 5, **DIFFUSERS},
    "sd3": {"pos_embed_max_size": 6, **TEXT, **DIFFUSERS},
}
QUICK = ("rae-dit",)  # the others are variants of it
ENCODERS: Mapping[str, dict[str, Any]] = {
    "siglip": {"intermediate_size": 64, **VISION},
    "dinov2": {"mlp_ratio": 2, **VISION},
}


def _declared(folder: Path, text: str) -> Path:
    (folder / "n.json").write_text(json.dumps({"0": [3, 61, 3], "2": [7]}))
    save_file({"registers": torch.randn(4, 48, generator=torch.Generator().manual_seed(1))}, folder / "r.safetensors")
    (folder / "dsr.toml").write_text(text)
    return folder / "dsr.toml"


def _load(path: Path, dsr: Path) -> OnnxSubject:
    subject = find_source(ModelRequest(model=str(path), dsr=dsr)).load()
    assert isinstance(subject, OnnxSubject)
    return subject


def _compare(folder: Path, plain: Subject, native: Subject, dsr: Path) -> OnnxSubject:
    """Exports `plain`, inserts what `dsr` declares, and holds reference and lowered graph against `native`."""
    native.module.load_state_dict(plain.module.state_dict(), strict=False)
    feeds, (name, *_) = plain.example(3, seed=7), [spec.name for spec in plain.outputs]
    with plain.reference() as without, native.reference() as expected:
        before, wanted = without.infer(feeds)[name], expected.infer(feeds)[name]
    plain.trace(folder / "m.onnx")
    subject = _load(folder / "m.onnx", dsr)
    lowered, _ = lower(subject.trace(folder / "t.onnx"), folder / "l.onnx")
    with subject.reference() as reference, OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as static:
        defined, got = reference.infer(feeds)[name], static.infer(feeds)[name]
    assert np.abs(wanted - before).max() > 100 * TOLERANCE  # the sites do something
    np.testing.assert_allclose(defined, wanted, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE, rtol=0)
    return subject


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DENOISERS]
)
def test_replacement_as_in_the_family(tmp_path: Path, family: str) -> None:
    choice = 'registers = "r.safetensors"'
    dsr = _declared(tmp_path, REPLACE.format(layers="0, 1", choice=choice))
    options = DENOISERS[family]
    plain = load_subject(family, random_weights=0, registers=0, **options)
    native = load_subject(family, random_weights=0, registers=0, dsr=dsr, **options)
    subject = _compare(tmp_path, plain, native, dsr)
    assert subject.card().sites == {"ReplaceOutliers": 2, "ShiftRegisterNeurons": 0}
    blocks = 2 if "num_layers" in options else 3
    assert str(subject.card().provenance["residual_stream"]).startswith(f"{blocks} blocks of [batch, 16, 48]: ")


def test_register_rows_that_are_declared_are_excluded(tmp_path: Path) -> None:
    """The plain graph has registers from block 1; without the declaration they would count and be replaced."""
    group = REPLACE.format(layers="0, 1, 2", choice='registers = "r.safetensors"')
    dsr = _declared(tmp_path, '[denoiser]\nkind = "diffusion"\nregisters = 4\nstart = 1\n' + group)
    options = {"random_weights": 0, "registers": 4, "register_start": 1, **DENOISERS["rae-dit"]}
    native = load_subject("rae-dit", dsr=dsr, **options)
    subject = _compare(tmp_path, load_subject("rae-dit", **options), native, dsr)
    nodes = [node for node in onnx.load(tmp_path / "t.onnx").graph.node if node.domain == "dsr"]
    excluded = [next((list(a.ints) for a in node.attribute if a.name == "exclude"), []) for node in nodes]
    assert excluded == [[], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert subject.card().dsr["denoiser"]["registers"] == 4
    for line, message in {
        "registers = 3\nstart = 1": "declares 3 registers from block 1, and the graph puts 4 rows before the tokens of",
        "registers = 4\nstart = 2": "declares 4 registers from block 2, and the graph puts no rows before the tokens",
    }.items():
        wrong = _declared(tmp_path, f'[denoiser]\nkind = "diffusion"\n{line}\n' + group)
        with pytest.raises(ExportError, match=message):
            _load(tmp_path / "m.onnx", wrong)


@pytest.mark.parametrize("family", ["siglip", pytest.param("dinov2", marks=pytest.mark.slow)])
def test_test_time_registers_as_in_the_family(tmp_path: Path, family: str) -> None:
    dsr = _declared(tmp_path, TEST_TIME)
    plain = load_subject(family, random_weights=0, **ENCODERS[family])
    native = load_subject(family, random_weights=0, dsr=dsr, **ENCODERS[family])
    subject = _compare(tmp_path, plain, native, dsr)
    assert subject.card().sites == {"ReplaceOutliers": 0, "ShiftRegisterNeurons": 2}
    written = onnx.load(tmp_path / "t.onnx").graph
    pads = [node for node in written.node if node.op_type == "Pad"]
    assert [node.name for node in pads] == ["dsr/insert/registers/append"]


@pytest.mark.slow
def test_a_gate_comes_from_the_file(tmp_path: Path) -> None:
    dsr = _declared(tmp_path, REPLACE.format(layers="1", choice='choice = "gate"\nregisters = "g.safetensors"'))
    generator = torch.Generator().manual_seed(2)
    shapes = {"registers": (4, 48), "choice_weight": (48, 4), "gate_weight": (48, 1), "gate_bias": (1,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "g.safetensors")
    dsr = _declared(tmp_path, dsr.read_text())
    options = {"random_weights": 0, "registers": 0, **DENOISERS["dit"]}
    _compare(tmp_path, load_subject("dit", **options), load_subject("dit", dsr=dsr, **options), dsr)
    del weights["gate_weight"]
    save_file(weights, tmp_path / "g.safetensors")
    with pytest.raises(ExportError, match="gate_weight"):
        _load(tmp_path / "m.onnx", dsr)


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 13), ("fp16", 13), ("fp16", 20)])
def test_a_build_with_test_time_registers(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, precision: str, opset: int
) -> None:
    monkeypatch.chdir(tmp_path)
    export(plain_vit(), tmp_path / "vit.onnx", opset=opset)
    dsr = _declared(tmp_path, TEST_TIME)
    (tmp_path / "n.json").write_text('{"0": [3, 31], "2": [7]}')
    built = cli("build", "vit.onnx", "--dsr", dsr, "--target", "onnxruntime", "--precision", precision, "--json")
    assert built.code == 0, built.err
    report = json.loads(built.out)
    assert report["passed"] is True and report["rewrites"]["fold_register_neurons"] == 2
    assert {row["reference"] for row in report["parity"]} == {"onnx-segments-fp32", "row 0", "itself"}
    manifest = Bundle.open(tmp_path / "vit.dsr").manifest
    assert manifest.dsr["encoder"]["neurons"] == {"0": [3, 31], "2": [7]}
    assert manifest.provenance["residual_stream"] == "3 blocks of [batch, 16, 24]: blocks.0 to blocks.2"
    assert cli("verify", "vit.dsr").code == 0


def test_the_declaration_is_part_of_the_key(tmp_path: Path) -> None:
    export(plain_vit(), tmp_path / "m.onnx")

    def key(dsr: Path | None) -> dict[str, Any]:
        return find_source(ModelRequest(model=str(tmp_path / "m.onnx"), dsr=dsr)).key()

    dsr = _declared(tmp_path, TEST_TIME)
    keys = [key(None), key(dsr)]
    (tmp_path / "n.json").write_text('{"0": [3]}')
    keys.append(key(dsr))
    keys.append(key(_declared(tmp_path, CLIP)))
    assert len({json.dumps(each, sort_keys=True) for each in keys}) == 4


REFUSED: Mapping[str, tuple[str, str, str]] = {
    "trained": ('[encoder]\nkind = "trained"\nregisters = 4\n', "'trained' changes nothing", "remove the table"),
    "nothing": ('[denoiser]\nkind = "none"\n', "declares no site to insert", "replace"),
    "both": (TEST_TIME + CLIP, "an encoder or a denoiser, and --dsr declares both", "keep one"),
    "own registers": (
        REPLACE.format(layers="0", choice=""),
        r"layers \[0\]: registers 'diffusion' are the model's own, and an ONNX graph does not say which rows",
        ".safetensors file with a tensor 'registers' [R, D]",
    ),
    "inserted registers": (
        '[denoiser]\nkind = "diffusion"\nregister_file = "r.safetensors"\n' + CLIP,
        "register_file prepends registers to a diffusers model",
        "export the model with its registers",
    ),
    "width": (
        REPLACE.format(layers="0", choice='registers = "r.safetensors"'),
        r"expected a tensor 'registers' of shape \[R, 24\], found \[4, 48\]",
        "save_file",
    ),
    "layer": (
        REPLACE.format(layers="3", choice='choice = "mask"'),
        r"layer 3: the graph has layers 0 to 2 \(3 blocks of \[batch, 16, 24\]: blocks.0 to blocks.2\)",
        "count the blocks",
    ),
    "neuron": (TEST_TIME, r"layer 0 \(blocks.0\), neuron 61: the MLP has neurons 0 to 39", "another model"),
    "no such rows": (
        '[denoiser]\nkind = "diffusion"\nregisters = 2\n' + CLIP,
        "declares 2 registers from block 0, and the graph puts no rows before the tokens of blocks.0",
        "leave them out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_was_found_and_the_way_out(tmp_path: Path, case: str) -> None:
    text, message, hint = REFUSED[case]
    path = export(plain_vit(), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=message) as refused:
        _load(path, _declared(tmp_path, text))
    assert hint in str(refused.value.hint)


NO_STREAM: Mapping[str, Callable[[], torch.nn.Module]] = {
    "post": lambda: plain_vit("post"),
    "mlp-only": lambda: plain_vit("mlp-only"),
}


@pytest.mark.parametrize("style", NO_STREAM)
def test_a_graph_without_blocks_is_refused_with_near_misses(tmp_path: Path, cli: Cli, style: str) -> None:
    path, dsr = export(NO_STREAM[style](), tmp_path / "m.onnx"), _declared(tmp_path, CLIP)
    done = cli("build", path, "--dsr", dsr, "--target", "onnxruntime", "--out", tmp_path / "m.dsr")
    said = " ".join(done.err.split())
    assert (done.code, "no residual stream" in said, "near misses: blocks.0/Add: " in said) == (1, True, True)
    assert not (tmp_path / "m.dsr").exists()


def test_a_graph_that_holds_sites_is_refused(tmp_path: Path) -> None:
    path, dsr = export(plain_vit(), tmp_path / "m.onnx"), _declared(tmp_path, CLIP)
    _load(path, dsr).trace(tmp_path / "t.onnx")
    with pytest.raises(ExportError, match=r"holds symbolic dsr ops already \(2 ReplaceOutliers\)") as refused:
        _load(tmp_path / "t.onnx", dsr)
    assert refused.value.hint == "build it without --dsr"


def test_large_weights_stay_beside_the_file(tmp_path: Path) -> None:
    path, dsr = export(plain_vit(), tmp_path / "m.onnx"), _declared(tmp_path, CLIP)
    model = onnx.load(path)
    table = np.random.default_rng(0).standard_normal((24, 24)).astype(np.float32)
    big = onnx.numpy_helper.from_array(np.kron(table, np.ones((1, 20000), np.float32)), "big")  # 46 MB
    model.graph.initializer.append(big)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(24), "columns"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["big", "columns"], ["small"], axis=1))
    model.graph.node.append(onnx.helper.make_node("MatMul", ["before", "small"], [output]))
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=100)
    subject = _load(path, dsr)
    lowered, _ = lower(subject.trace(tmp_path / "t.onnx"), tmp_path / "l.onnx")
    feeds = subject.example(2, seed=1)
    with subject.reference() as reference, OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as static:
        np.testing.assert_allclose(static.infer(feeds)["out"], reference.infer(feeds)["out"], atol=TOLERANCE)
