"""Weights of diffusers transformers: shards, former layouts, seeds, and everything that does not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.files import open_folder
from dsr_export.families.diffusers.models import NAMES
from tests.families.diffusers.folders import (
    DIT,
    OPTIONS,
    PIXART,
    SD3,
    expected_output,
    from_folder,
    random_subject,
    run_example,
    saved,
)


class TestWeights:
    def test_shards_are_put_together(self, tmp_path: Path) -> None:
        folder = open_folder(saved(SD3, tmp_path, max_shard_size="50KB"))
        assert len(folder.weights) > 1
        inputs, out = run_example(from_folder(folder, options=OPTIONS[SD3]))
        np.testing.assert_allclose(out, expected_output(SD3, inputs), rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("class_name", "norm"), [(DIT, "ada_norm_zero"), (PIXART, "ada_norm_single")])
    def test_configs_of_the_former_single_class(self, class_name: str, norm: str, tmp_path: Path) -> None:
        saved(class_name, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        former = {"only_cross_attention": False, "num_vector_embeds": None, "norm_type": norm}
        config |= {"_class_name": "Transformer2DModel", **former}
        (tmp_path / "config.json").write_text(json.dumps(config))
        inputs, out = run_example(from_folder(open_folder(tmp_path), options=OPTIONS[class_name]))
        np.testing.assert_allclose(out, expected_output(class_name, inputs), rtol=0, atol=1e-4)

    def test_half_precision_weights_are_read_as_float32(self, tmp_path: Path) -> None:
        saved(SD3, tmp_path)
        file = tmp_path / "diffusion_pytorch_model.safetensors"
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
        module = from_folder(open_folder(tmp_path), options=OPTIONS[SD3]).module
        assert {p.dtype for p in module.parameters()} == {torch.float32}

    def test_tensors_that_do_not_fit_are_named(self, tmp_path: Path) -> None:
        saved(SD3, tmp_path)
        file = tmp_path / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        state["proj_aut.bias"] = state.pop("proj_out.bias")
        save_file(state, file)
        with pytest.raises(ExportError, match=r"1 missing:\n  proj_out.bias") as caught:
            from_folder(open_folder(tmp_path))
        assert "proj_aut.bias" in caught.value.message

    @pytest.mark.parametrize("entry", [{"pose_embed_max_size": 6}, {"new_kind_of_norm": "x"}])
    def test_unknown_config_entries_are_refused(self, entry: dict[str, Any], tmp_path: Path) -> None:
        saved(SD3, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | entry))
        with pytest.raises(ExportError, match="has no argument") as caught:
            from_folder(open_folder(tmp_path))
        assert "pos_embed_max_size" in str(caught.value.hint) or "newer" in str(caught.value.hint)

    def test_impossible_sizes_are_refused(self, tmp_path: Path) -> None:
        saved(DIT, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"norm_type": "layer_norm"}))
        with pytest.raises(ExportError, match="refuses its config"):
            from_folder(open_folder(tmp_path), random_weights=0)

    def test_random_weights_depend_on_the_seed_alone(self) -> None:
        torch.manual_seed(5)
        first = random_subject("pixart").module.state_dict()
        before = torch.random.get_rng_state()
        again, other = (
            random_subject("pixart").module.state_dict(),
            random_subject("pixart", seed=1).module.state_dict(),
        )
        assert torch.equal(before, torch.random.get_rng_state())  # torch's own generator is left alone
        assert all(torch.equal(value, again[name]) for name, value in first.items())
        assert any(not torch.equal(value, other[name]) for name, value in first.items())

    @pytest.mark.parametrize("name", NAMES)
    def test_random_outputs_are_of_order_one(self, name: str) -> None:
        assert 0.1 < run_example(random_subject(name))[1].std() < 10

    def test_the_missing_package_names_its_extra(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        folder = open_folder(saved(DIT, tmp_path))
        monkeypatch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(ExportError, match="needs the package diffusers") as caught:
            from_folder(folder)
        assert "dsr-export[models]" in str(caught.value.hint)
