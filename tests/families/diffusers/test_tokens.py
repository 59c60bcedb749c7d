"""Registers inserted into diffusers transformers, and replacement behind their blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.positions import flux_ids, rotary_tables
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from tests.families.diffusers.folders import (
    DIT,
    FLUX,
    PIXART,
    SD3,
    expected_output,
    original,
    random_subject,
    run_example,
    saved_subject,
)

MASK = ReplaceSpec(layers=(0,), rule="median", threshold=1.1, choice="mask")


class TestRegisters:
    """Against the blocks called one after the other, by hand."""

    @pytest.mark.parametrize("start", [0, 1])
    @torch.no_grad()
    def test_dit(self, tmp_path: Path, start: int) -> None:
        subject, rows = _with_registers(DIT, tmp_path, start)
        inputs, out = run_example(subject)
        model = original(DIT)
        h = model.pos_embed(inputs["x"])
        for i, block in enumerate(model.transformer_blocks):
            h = torch.cat([rows.expand(2, -1, -1), h], dim=1) if i == start else h
            h = block(h, timestep=inputs["t"], class_labels=inputs["y"])
        np.testing.assert_allclose(out, _finish_dit(model, h[:, 3:], inputs), rtol=0, atol=1e-4)
        assert np.abs(out - expected_output(DIT, inputs)).max() > 1e-3  # they do something

    @pytest.mark.parametrize("start", [1, 2])
    @torch.no_grad()
    def test_flux_does_not_rotate_them(self, tmp_path: Path, start: int) -> None:
        subject, rows = _with_registers(FLUX, tmp_path, start)
        inputs, out = run_example(subject)
        model = original(FLUX)
        cos, sin = rotary_tables(flux_ids(4, 3, 5), (4, 6, 6))
        h, text = model.x_embedder(inputs["hidden_states"]), model.context_embedder(inputs["encoder_hidden_states"])
        temb = model.time_text_embed(inputs["timestep"] * 1000, inputs["guidance"] * 1000, inputs["pooled_projections"])
        for i, block in enumerate([*model.transformer_blocks, *model.single_transformer_blocks]):
            if i == start:
                h = torch.cat([rows.expand(2, -1, -1), h], dim=1)
                cos = torch.cat([cos[:5], torch.ones(3, 16), cos[5:]])
                sin = torch.cat([sin[:5], torch.zeros(3, 16), sin[5:]])
            text, h = block(h, text, temb, (cos, sin))
        expected = model.proj_out(model.norm_out(h[:, 3:], temb))
        np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=1e-4)
        assert np.abs(out - expected_output(FLUX, inputs)).max() > 1e-3

    @torch.no_grad()
    def test_sd3(self, tmp_path: Path) -> None:
        subject, rows = _with_registers(SD3, tmp_path, 1)
        inputs, out = run_example(subject)
        model = original(SD3)
        h, text = model.pos_embed(inputs["hidden_states"]), model.context_embedder(inputs["encoder_hidden_states"])
        temb = model.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
        text, h = model.transformer_blocks[0](h, text, temb)
        _, h = model.transformer_blocks[1](torch.cat([rows.expand(2, -1, -1), h], dim=1), text, temb)
        tokens = model.proj_out(model.norm_out(h[:, 3:], temb))  # [2, 16, 2 * 2 * 4]
        expected = tokens.reshape(2, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(2, 4, 8, 8)
        np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=1e-4)

    def test_pixart_has_them_in_every_later_block(self, tmp_path: Path) -> None:
        subject, _ = _with_registers(PIXART, tmp_path, 1)
        seen = []
        for block in subject.module.transformer.transformer_blocks:  # type: ignore[union-attr]
            block.attn1.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        _, out = run_example(subject)
        assert seen == [16, 19] and out.shape == (2, 8, 8, 8)

    def test_random_weights_draw_them(self) -> None:
        subject = random_subject("sd3", registers=3)
        assert subject.dsr.denoiser.registers == 3 and subject.dsr.denoiser.kind == "diffusion"

    def test_files_are_checked(self, tmp_path: Path) -> None:
        file = tmp_path / "r.safetensors"
        save_file({"registers": torch.ones(3, 31)}, file)
        with pytest.raises(ExportError, match=r"\[R, 32\]"):
            saved_subject(DIT, tmp_path / "m", options={"register_file": str(file)})
        save_file({"registers": torch.ones(3, 32)}, file)
        with pytest.raises(ExportError, match="--registers 4, but"):
            saved_subject(DIT, tmp_path / "m", registers=4, options={"register_file": str(file)})
        with pytest.raises(ExportError, match=r"outside \[0, 2\)"):
            saved_subject(DIT, tmp_path / "m", options={"register_file": str(file), "register_start": 2})

    def test_real_weights_need_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="no registers of its own"):
            saved_subject(DIT, tmp_path, registers=4)
        with pytest.raises(ExportError, match="no registers are"):
            saved_subject(DIT, tmp_path, options={"register_start": 1})


def _with_registers(class_name: str, folder: Path, start: int) -> tuple[Subject, Tensor]:
    rows = torch.randn(3, 48 if class_name == PIXART else 32, generator=torch.Generator().manual_seed(1))
    save_file({"registers": rows}, folder / "registers.safetensors")
    options = {"register_file": str(folder / "registers.safetensors"), "register_start": start}
    return saved_subject(class_name, folder / "model", options=options), rows


def _finish_dit(model: Any, h: Tensor, inputs: dict[str, Tensor]) -> np.ndarray:
    emb = model.transformer_blocks[0].norm1.emb(inputs["t"], inputs["y"], hidden_dtype=torch.float32)
    shift, scale = model.proj_out_1(torch.nn.functional.silu(emb)).chunk(2, dim=1)
    h = model.proj_out_2(model.norm_out(h) * (1 + scale[:, None]) + shift[:, None])  # [2, 16, 2 * 2 * 8]
    return h.reshape(2, 4, 4, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(2, 8, 8, 8).numpy()


class TestReplacement:
    @torch.no_grad()
    def test_dit_replaces_behind_the_block(self, tmp_path: Path) -> None:
        inputs, out = run_example(saved_subject(DIT, tmp_path, replace=[MASK]))
        model = original(DIT)
        h = model.pos_embed(inputs["x"])
        for i, block in enumerate(model.transformer_blocks):
            h = block(h, timestep=inputs["t"], class_labels=inputs["y"])
            h = RecursiveReplacement(rule="median", threshold=1.1, choice="mask")(h) if i == 0 else h
        assert np.abs(out - expected_output(DIT, inputs)).max() > 1e-3
        np.testing.assert_allclose(out, _finish_dit(model, h, inputs), rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("class_name", "layer"), [(SD3, 0), (FLUX, 1), (FLUX, 2), (PIXART, 1)])
    def test_it_sees_image_tokens_only(self, class_name: str, layer: int, tmp_path: Path) -> None:
        subject = saved_subject(class_name, tmp_path, replace=[dataclasses.replace(MASK, layers=(layer,))])
        seen: list[Any] = []
        site = subject.module.replacements[str(layer)]  # type: ignore[index, union-attr]
        site.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
        _, out = run_example(subject)
        tokens = 12 if class_name == FLUX else 16
        assert seen == [(2, tokens, 48 if class_name == PIXART else 32)]
        plain = run_example(saved_subject(class_name, tmp_path))[1]
        assert np.abs(out - plain).max() > 1e-4
        assert subject.dsr.sites()["ReplaceOutliers"] == 1

    def test_registers_are_excluded_and_used(self) -> None:
        group = ReplaceSpec(layers=(0, 1), rule="median", threshold=1.3)
        module = random_subject("sd3", registers=3, replace=[group], register_start=1).module
        assert isinstance(module, DiffusersDenoiser)
        sites = {layer: site.exclude for layer, site in module.replacements.items()}
        assert sites == {"0": [], "1": [0, 1, 2]}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layers": (3,)}, "blocks 0 to 2"),
            ({"choice": "nearest"}, "no registers of its own"),
            ({"rule": "mean"}, "unknown rule"),
        ],
    )
    def test_groups_that_do_not_fit(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=message):
            saved_subject(FLUX, tmp_path, replace=[dataclasses.replace(MASK, **change)])
