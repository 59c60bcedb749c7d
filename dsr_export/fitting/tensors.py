"""The tensors that are trained: drafted as files, found again in the model that reads these, and written at the end.

A draft is a folder as `build --dsr` takes it, so that what is trained is what will be built.
Shapes: R registers, D channels, B rows of a batch, n tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.families.inserted_registers import TOKENS
from dsr_export.families.network_parts.replacements import Replaceable
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.fitting.wish import DSR_FILE, REGISTERS_FILE, TrainedFile, Wish
from dsr_export.registers import RecursiveReplacement
from dsr_export.storage.disk import copy_durably

Trained = dict[str, dict[str, Tensor]]
"""File -> name in it -> tensor, float32."""
REGISTERS = "registers"
GATE = ("choice_weight", "gate_weight", "gate_bias")
FIRST_STD = 0.02  # of inserted registers, before they are trained


def write_draft(folder: Path, wish: Wish, module: nn.Module, seed: int) -> None:
    """`dsr.toml` and first values of every file, for the widths of the model's streams."""
    generator = torch.Generator().manual_seed(seed)
    (folder / DSR_FILE).write_text(wish.text, encoding="utf-8")
    for name, path in wish.kept.items():
        copy_durably(path, folder / name)
    for file in wish.files:
        width = stream_width(module, file)
        state = {REGISTERS: FIRST_STD * torch.randn(file.count, width, generator=generator)}
        if file.gate:
            state |= {GATE[0]: torch.zeros(width, file.count), GATE[1]: torch.zeros(width, 1), GATE[2]: torch.zeros(1)}
        save_file(state, folder / file.name)


def stream_width(module: Any, file: TrainedFile) -> int:
    """D of the tokens that `file` is for. ExportError for a model without them."""
    if isinstance(module, Trunk):
        return module.trunk.hidden_size
    if isinstance(module, VisionEncoder):
        return module.channels
    if isinstance(module, GeneralDenoiser):
        found = [block.widths[file.stream] for block in module.blocks or () if file.stream in block.places]
        return found[0] if found else _no_stream(module, file)
    stream: Replaceable | None = module
    if file.stream == "text":
        stream = getattr(module, "text", None)
    config: Any = getattr(stream, "config", None)
    return int(config.hidden_size) if hasattr(config, "hidden_size") else _no_stream(module, file)


def _no_stream(module: Any, file: TrainedFile) -> int:
    raise ExportError(
        f"{type(getattr(module, 'transformer', module)).__name__} has no {file.stream} tokens that registers can be "
        "trained for",
        hint="fit takes registered denoisers, encoders and diffusers transformers",
    )


def trained_tensors(module: nn.Module, folder: Path, wish: Wish) -> Trained:
    """The model's own tensors that came from the draft, made to need gradients; sites of one file share theirs."""
    made: Trained = {}
    for file in wish.files:
        if file.name == REGISTERS_FILE:
            made[file.name] = {REGISTERS: _inserted(module)}
            continue
        sites = sites_of(module, folder / file.name)
        names = (REGISTERS, *(GATE if file.gate else ()))
        shared = {name: nn.Parameter(getattr(sites[0], name).detach().clone()) for name in names}
        for site in sites:
            for name, value in shared.items():
                setattr(site, name, value)
        made[file.name] = {**shared}
    return made


def sites_of(module: nn.Module, file: Path) -> list[RecursiveReplacement]:
    """Those whose registers came from `file`."""
    found = [site for site in module.modules() if isinstance(site, RecursiveReplacement) and site.source == str(file)]
    if not found:
        raise ExportError(f"{type(module).__name__} has no site that reads {file.name}", hint="give --dsr layers")
    return found


def _inserted(module: Any) -> Tensor:
    """The inserted registers, as a leaf [R, D] or [1, R, D]."""
    if isinstance(module, VisionEncoder):
        module.appended = nn.Parameter(module.appended.detach().clone())
        return module.appended
    parameter = getattr(module, TOKENS, None)
    if isinstance(parameter, nn.Parameter):
        return parameter.requires_grad_()
    rows = nn.Parameter(module.registers.detach().clone())
    del module.registers
    module.registers = rows
    return rows


@contextmanager
def entering_tokens(sites: Mapping[str, list[RecursiveReplacement]]) -> Iterator[dict[str, list[Tensor]]]:
    """While active, gathers what comes to the sites of each file, [B, n, D]."""
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}
    with ExitStack() as hooks:
        for name, each in sites.items():
            for site in each:
                hooks.enter_context(site.register_forward_pre_hook(_keeping(seen[name])))
        yield seen


def _keeping(tokens: list[Tensor]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        tokens.append(args[0])

    return hook


@torch.no_grad()
def start_from_ordinary_tokens(trained: Trained, seen: Mapping[str, list[Tensor]], seed: int) -> None:
    """Registers of sites begin as tokens with the middle norms of those that came there: what blocks behind expect."""
    generator = torch.Generator().manual_seed(seed)
    for name, tokens in seen.items():
        rows = trained[name][REGISTERS]
        flat = torch.cat([each.detach().float().cpu().flatten(0, 1) for each in tokens])
        norms = flat.norm(dim=-1)
        middle = norms.argsort()[len(norms) // 4 : max(len(norms) // 4 + 1, 3 * len(norms) // 4)]
        chosen = middle[torch.randint(len(middle), (len(rows),), generator=generator)]
        rows.copy_(flat[chosen])


def flat(trained: Trained) -> dict[str, Tensor]:
    """By `file/name`, in their order."""
    return {f"{file}/{name}": value for file, tensors in sorted(trained.items()) for name, value in tensors.items()}


def as_files(values: Mapping[str, Tensor]) -> Trained:
    """The inverse of `flat`, detached; registers as [R, D]."""
    made: Trained = {}
    for key, value in values.items():
        file, _, name = key.partition("/")
        shape = value.shape[-2:] if name == REGISTERS else value.shape  # some models keep registers as [1, R, D]
        made.setdefault(file, {})[name] = value.detach().cpu().clone().reshape(shape)
    return made
