"""A diffusers denoiser's blocks and grid of tokens, whichever adapter it has: what is looked at from outside."""

from __future__ import annotations

from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.general.joined import find_blocks
from dsr_export.families.diffusers.general.running import DrawnRuns
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser
from dsr_export.spec import Stream
from dsr_export.subject import Subject


def followed_blocks(subject: Subject) -> tuple[Block, ...]:
    """In the order of their layer numbers, with what each hands on; registers are among the rows of no stream.

    Raises ExportError for a block of which no stream can be told.
    """
    module = subject.module
    if isinstance(module, GeneralDenoiser):
        runs = DrawnRuns(module, subject.inputs, subject.draws)
        found = module.blocks or find_blocks(module.transformer, lambda other: runs.run(1, other), lambda: runs.run(2))
        return found
    assert isinstance(module, DiffusersDenoiser)
    names = {part: name for name, part in module.transformer.named_modules()}
    blocks = module.blocks_of(module.transformer)
    return tuple(_block(module, names[part], layer, last=layer == len(blocks) - 1) for layer, part in enumerate(blocks))


def _block(module: DiffusersDenoiser, name: str, layer: int, *, last: bool) -> Block:
    places: dict[Stream, int | None] = {"image": 1, "text": 0} if module.KEEPS_TEXT else {"image": None}
    if last:
        places.pop("text", None)  # SD3 returns none there, and nothing reads FLUX's
    registers = tuple(range(module.register_count)) if module.has_registers(layer) and not last else ()
    return Block(
        name=name,
        module=module.transformer.get_submodule(name),
        widths=dict.fromkeys(places, module.dim),
        places=places,
        others={"image": registers} if registers else {},
    )


def token_grid(subject: Subject) -> tuple[int, int, int]:
    """Frames, rows and columns of the image's tokens."""
    module = subject.module
    if isinstance(module, GeneralDenoiser):
        return module.call.grid
    assert isinstance(module, DiffusersDenoiser)
    return module.grid
