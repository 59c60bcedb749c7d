"""Registers in classes without an adapter of their own, against hooks on diffusers' model that put them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.families.diffusers.followed import followed_blocks
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.lowering import lower
from tests.families.diffusers.general.hidden_registers import hidden_effect
from tests.families.diffusers.general.survey import SURVEY
from tests.families.diffusers.general.tiny import bare_folder, loaded

pytest.importorskip("diffusers", reason="the models extra is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:In CPU autocast:UserWarning", "ignore:flex_attention called without", "ignore:.FluxPosEmbed. is deprecated"
)

R = 3
TEXT = 7  # tokens of the survey's prompts


@dataclass(frozen=True)
class Definition:
    """Registers from the first of `blocks` on: where in each block's tokens, and what its other arguments become.

    `tables` are an argument's axis and place, by its name or number; rotations get 1 and 0, masks true.
    """

    start: int
    blocks: Mapping[str, int]
    tables: Mapping[str | int, tuple[int, int]]
    last_place: int | None = None


_PAIRS = {f"transformer_blocks.{i}": 0 for i in (0, 1)}
DEFINITIONS = {
    "WanTransformer3DModel": Definition(1, {"blocks.1": 0}, {3: (1, 0)}),
    "QwenImageTransformer2DModel": Definition(0, _PAIRS, {"image_rotary_emb": (0, 0)}, last_place=1),
    "HunyuanVideoTransformer3DModel": Definition(
        1,
        {"transformer_blocks.1": 0, "single_transformer_blocks.0": 0, "single_transformer_blocks.1": 0},
        {3: (3, 0), 4: (0, 0)},
        last_place=0,
    ),
    "Flux2Transformer2DModel": Definition(
        1,
        {"transformer_blocks.1": 0, "single_transformer_blocks.0": TEXT, "single_transformer_blocks.1": TEXT},
        {"image_rotary_emb": (0, TEXT)},
    ),
    "Lumina2Transformer2DModel": Definition(2, {"layers.0": 12, "layers.1": 12}, {2: (1, 12)}),
}
SLOW = ("HunyuanVideoTransformer3DModel", "Lumina2Transformer2DModel")


def _put(values: Tensor, axis: int, at: int, added: Tensor) -> Tensor:
    head, tail = values.split([at, values.shape[axis] - at], dim=axis)
    return torch.cat([head, added.expand([R if i == axis else n for i, n in enumerate(values.shape)]), tail], dim=axis)


def _turned(value: Any, axis: int, at: int) -> Any:
    """A pair of cosines and sines, a complex table with that of the prompt behind it, or a mask."""
    if not isinstance(value, tuple):
        return _put(value, axis, at, torch.ones((), dtype=value.dtype))
    if value[0].is_complex():
        return _turned(value[0], axis, at), value[1]
    return tuple(_put(each, axis, at, torch.tensor(fill)) for each, fill in zip(value, (1.0, 0.0), strict=True))


def _define(model: Any, definition: Definition, rows: Tensor) -> None:
    """Hooks that put `rows` in, as whoever trains them would write it for this class."""
    first, last = next(iter(definition.blocks)), list(definition.blocks)[-1]

    def before(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = {**dict(enumerate(args)), **kwargs}
            tokens: Any = "hidden_states" if "hidden_states" in given else 0
            if name == first:
                given[tokens] = _put(given[tokens], 1, definition.blocks[name], rows[None])
            for key, (axis, at) in definition.tables.items():
                given[key] = _turned(given[key], axis, at)
            return tuple(given[i] for i in range(len(args))), {k: v for k, v in given.items() if isinstance(k, str)}

        return hook

    def behind(_: Any, __: Any, output: Any) -> Any:
        at, place = definition.blocks[last], definition.last_place
        tokens = output if place is None else output[place]
        kept = torch.cat([tokens[:, :at], tokens[:, at + R :]], dim=1)
        return kept if place is None else (*output[:place], kept, *output[place + 1 :])

    for name in definition.blocks:
        model.get_submodule(name).register_forward_pre_hook(before(name), with_kwargs=True)
    model.get_submodule(last).register_forward_hook(behind)


def _subject(name: str, folder: Path, start: int, **asked: Any) -> Subject:
    config, options = SURVEY[name]
    if not folder.exists():
        bare_folder(folder, name, config)
    return loaded(folder, random_weights=0, registers=R, options={**options, "register_start": start}, **asked)


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in DEFINITIONS]
)
def test_they_are_what_their_definition_says(name: str, tmp_path: Path) -> None:
    options = SURVEY[name][1]
    definition = DEFINITIONS[name]
    subject = _subject(name, tmp_path / "model", definition.start)
    plain = loaded(tmp_path / "model", random_weights=0, options=dict(options))
    inputs = subject.example(3, seed=1)
    with plain.reference() as runner:
        without = runner.infer(inputs)["out"]
    rows = subject.module.registers
    assert isinstance(rows, Tensor)
    _define(plain.module.transformer, definition, rows)
    with torch.no_grad():
        expected = plain.module(*map(torch.from_numpy, inputs.values())).numpy()
    assert np.abs(expected - without).max() > 1e-2  # they do something
    with subject.reference() as runner:
        np.testing.assert_allclose(runner.infer(inputs)["out"], expected, rtol=0, atol=1e-4)


FITTING = {
    "BriaFiboTransformer2DModel": 1,
    "HunyuanDiT2DModel": 0,
    "Kandinsky5Transformer3DModel": 1,
    "Lumina2Transformer2DModel": 2,
}
REFUSED = {
    "AllegroTransformer3DModel": r"is given 'image_rotary_emb\[1\]\[1\]' \[1, 30\] with values for each token",
    "AnyFlowTransformer3DModel": r"is given 'temb' \[2, 30, 6, 24\] with values for each token",
    "AnyFlowFARTransformer3DModel": "is given 'temb'",
    "ErnieImageTransformer2DModel": "takes its tokens with the batch as second axis",
    "LatteTransformer3DModel": "'transformer_blocks.0' is given frames, or places in them, one by one",
    "PriorTransformer": "is given 'attention_mask'",
    "SanaTransformer2DModel": "cannot be called with more tokens than the picture has",
    "SanaVideoTransformer3DModel": "cannot be called with more tokens than the picture has",
    "WanVACETransformer3DModel": "returns several streams of 30 tokens",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SURVEY)
def test_in_any_class_they_touch_nothing_but_what_attends_to_them(name: str, tmp_path: Path) -> None:
    """With their keys hidden in every attention, all other tokens and the output are those without registers."""
    if name in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[name]):
            _subject(name, tmp_path / "model", 0)
        return
    subject = _subject(name, tmp_path / "model", FITTING.get(name, 0))
    plain = loaded(tmp_path / "model", random_weights=0, options=dict(SURVEY[name][1]))
    seen, hidden, size = hidden_effect(plain, subject, R)
    assert seen > 1e-3 * size and hidden < 1e-5 * size
    with subject.reference() as runner:
        lowered, _ = lower(subject.trace(tmp_path / "traced.onnx"), tmp_path / "lowered.onnx")
        with OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as graph:
            for batch in (1, 3):  # in the graph as in PyTorch
                inputs = subject.example(batch, seed=2)
                expected = runner.infer(inputs)["out"]
                np.testing.assert_allclose(graph.infer(inputs)["out"], expected, rtol=0, atol=1e-4 * size)


@pytest.mark.parametrize(
    ("name", "start", "message", "hint"),
    [
        ("SanaTransformer2DModel", 0, REFUSED["SanaTransformer2DModel"], "replacement with registers from a file"),
        ("Lumina2Transformer2DModel", 1, "between its blocks the model counts on as many tokens", r": \[2, 3\]"),
        ("Lumina2Transformer2DModel", 0, "block 0 .* takes no image tokens", r"\[1, 2, 3\]"),
        ("HunyuanDiT2DModel", 2, "also given tokens from before registers come in, as 'skip'", ""),
        ("LatteTransformer3DModel", 0, REFUSED["LatteTransformer3DModel"], ""),
        ("ErnieImageTransformer2DModel", 0, REFUSED["ErnieImageTransformer2DModel"], "module:callable"),
        ("WanTransformer3DModel", 2, r"register_start 2 is outside \[0, 2\)", ""),
    ],
)
def test_where_they_have_no_room_the_reason_is_told(
    name: str, start: int, message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        _subject(name, tmp_path / "model", start)
    assert re.search(hint, str(raised.value.hint))


def test_a_declaration_brings_them_with_replacement_by_the_nearest(tmp_path: Path) -> None:
    """FLUX.2: the prompt's seven tokens, then three registers, then the picture's fifteen."""
    name = "Flux2Transformer2DModel"
    rows = torch.randn(R, 32, generator=torch.Generator().manual_seed(4))
    save_file({"registers": rows}, tmp_path / "r.safetensors")
    declared = '[denoiser]\nkind = "diffusion"\nstart = 1\nregister_file = "r.safetensors"\n'
    declared += '[[denoiser.replace]]\nlayers = [0, 1, 3]\nrule = "median"\nthreshold = 1.2\n'
    declared += (
        '[[denoiser.replace]]\nlayers = [2]\nrule = "median"\nthreshold = 1.2\nchoice = "clip"\nstream = "text"\n'
    )
    (tmp_path / "dsr.toml").write_text(declared)
    folder = bare_folder(tmp_path / "model", name, SURVEY[name][0])
    subject = loaded(folder, random_weights=0, options=dict(SURVEY[name][1]), dsr=tmp_path / "dsr.toml")
    denoiser = subject.dsr.denoiser
    assert (denoiser.kind, denoiser.registers, denoiser.start, dict(denoiser.rows)) == ("diffusion", R, 1, {25: 7})
    assert subject.dsr.as_dict()["denoiser"]["rows"] == {"25": 7}
    sites: Any = subject.module.replacements
    assert {site: each.exclude for site, each in sites.items()} == {
        "0": [],
        "1": [0, 1, 2],
        "3": list(range(10)),
        "2_text": list(range(7, 25)),
    }
    changed: dict[str, Tensor] = {}
    for site, each in sites.items():
        each.register_forward_hook(
            lambda _, args, made, site=site: changed.update({site: made[(made != args[0]).any(-1)]})
        )
    inputs = subject.example(2, seed=1)
    with subject.reference() as runner:
        runner.infer(inputs)
    for site in ("0", "1", "3"):
        assert len(changed[site]) and bool((changed[site][:, None] == rows).all(-1).any(-1).all())


def test_they_are_rows_of_no_stream_for_who_follows_the_blocks(tmp_path: Path) -> None:
    subject = _subject("Flux2Transformer2DModel", tmp_path / "model", 1)
    rows = {block.name: dict(block.others) for block in followed_blocks(subject)}
    assert rows == {
        "transformer_blocks.0": {},
        "transformer_blocks.1": {"image": (0, 1, 2)},
        "single_transformer_blocks.0": {"image": tuple(range(10)), "text": tuple(range(7, 25))},
        "single_transformer_blocks.1": {"image": tuple(range(7)), "text": tuple(range(7, 22))},  # dropped by then
    }


def test_what_is_asked_of_them_is_checked(tmp_path: Path) -> None:
    name = "WanTransformer3DModel"
    folder = bare_folder(tmp_path / "model", name, SURVEY[name][0])
    file = tmp_path / "r.safetensors"
    save_file({"registers": torch.ones(2, 23)}, file)
    options = dict(SURVEY[name][1])
    with pytest.raises(ExportError, match=r"shape \[R, 24\], found \[2, 23\]"):
        loaded(folder, random_weights=0, options={**options, "register_file": str(file)})
    with pytest.raises(ExportError, match="register_start is given, but no registers are"):
        loaded(folder, random_weights=0, options={**options, "register_start": 1})
    save_file({"registers": torch.ones(2, 24)}, file)
    with pytest.raises(ExportError, match="--registers 4, but"):
        loaded(folder, random_weights=0, registers=4, options={**options, "register_file": str(file)})
    group = ReplaceSpec(layers=(0,), rule="median", threshold=4, choice="gate")
    with pytest.raises(ExportError, match="'gate' needs trained weights"):
        _subject(name, folder, 0, replace=(group,))
