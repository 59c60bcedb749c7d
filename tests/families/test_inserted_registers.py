"""`register_file` for checkpoints that have no registers, and for those that cannot take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.sources import load_subject as load_model
from tests.families.tiny_sizes import REQUIRED, SIZES

ROWS = torch.randn(3, SIZES["hidden_size"], generator=torch.Generator().manual_seed(5))


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    save_file({"registers": ROWS}, tmp_path / "r.safetensors")
    path = tmp_path / "dsr.toml"
    path.write_text('[denoiser]\nkind = "diffusion"\nstart = 1\nregister_file = "r.safetensors"\n', encoding="utf-8")
    return path


def _saved(model: str, path: Path) -> Path:
    """A checkpoint without registers."""
    subject = load_subject(model, random_weights=0, registers=0, **SIZES)
    save_file({name: value.contiguous() for name, value in subject.module.state_dict().items()}, path)
    return path


def _prepended(module: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """A model without registers that is given these by hooks, with a rotation that leaves them alone."""
    trunk: Any = module

    def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h, c, rope = args
        return torch.cat([ROWS.expand(len(h), -1, -1), h], dim=1), c, rope

    def unrotated(rope: Any) -> None:
        for name, value in (("freqs_cos", 1.0), ("freqs_sin", 0.0)):
            if hasattr(rope, name):
                table = getattr(rope, name)
                setattr(rope, name, torch.cat([torch.full((3, table.shape[1]), value), table]))

    rope = getattr(trunk, "feat_rope", None)
    first = trunk.blocks[0].register_forward_hook(lambda *_: unrotated(rope))
    hooks = [first, trunk.blocks[1].register_forward_pre_hook(enter)]
    last = trunk.blocks[-1].register_forward_hook(lambda _, __, h: h[:, 3:])
    made: torch.Tensor = trunk(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    for hook in (*hooks, last):
        hook.remove()
    return made


@pytest.mark.parametrize("model", ["rae-dit", "dit", "sit"])
@torch.no_grad()
def test_they_enter_a_checkpoint_that_has_none(model: str, declared: Path, tmp_path: Path) -> None:
    checkpoint = _saved(model, tmp_path / "base.safetensors")
    base = load_subject(model, checkpoint=checkpoint, **REQUIRED)
    given = load_subject(model, checkpoint=checkpoint, dsr=declared, **REQUIRED)
    assert (given.dsr.denoiser.registers, given.dsr.denoiser.start) == (3, 1)
    inputs = base.example(2, seed=0)
    made = given.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    np.testing.assert_allclose(made, _prepended(base.module, inputs), rtol=1e-5, atol=1e-6)


def test_drawn_weights_take_them_too(declared: Path) -> None:
    one = load_subject("rae-dit", random_weights=0, dsr=declared, **SIZES)
    torch.testing.assert_close(one.module.registers(), ROWS)


@pytest.mark.parametrize(
    ("model", "arguments", "reason"),
    [
        ("digits", {}, "registers of its own"),
        ("jit", {"random_weights": 0, **SIZES, "bottleneck_dim": 8}, "takes no registers from a file"),
    ],
)
def test_a_second_set_is_refused(model: str, arguments: dict[str, Any], reason: str, declared: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        load_subject(model, dsr=declared, **arguments)


def test_another_width_is_refused(declared: Path, tmp_path: Path) -> None:
    save_file({"registers": ROWS[:, :-1].contiguous()}, tmp_path / "r.safetensors")
    with pytest.raises(ExportError, match=r"31 channels, and the model has 32|shape"):
        load_subject("rae-dit", random_weights=0, dsr=declared, **SIZES)
    with pytest.raises(ExportError, match="31"):
        load_subject("rae-dit", checkpoint=_saved("rae-dit", tmp_path / "b.safetensors"), dsr=declared, **REQUIRED)


def test_registers_of_another_width_are_what_is_named(declared: Path, tmp_path: Path) -> None:
    """Not the checkpoint, which is as it should be."""
    save_file({"registers": ROWS[:, :-1].contiguous()}, tmp_path / "r.safetensors")
    checkpoint = _saved("rae-dit", tmp_path / "base.safetensors")
    with pytest.raises(ExportError, match=f"registers of {SIZES['hidden_size'] - 1} channels"):
        load_model("rae-dit", checkpoint=checkpoint, dsr=declared, **REQUIRED)


def test_a_gate_that_is_missing_from_its_file_is_named(tmp_path: Path) -> None:
    save_file({"registers": ROWS}, tmp_path / "site.safetensors")
    (tmp_path / "dsr.toml").write_text(
        '[[denoiser.replace]]\nlayers = [0]\nrule = "median"\nthreshold = 2.0\nchoice = "gate"\n'
        'registers = "site.safetensors"\n'
    )
    checkpoint = _saved("rae-dit", tmp_path / "base.safetensors")
    with pytest.raises(ExportError, match=r"site\.safetensors: its gate does not fit the model\n3 missing"):
        load_model("rae-dit", checkpoint=checkpoint, dsr=tmp_path / "dsr.toml", **REQUIRED)
