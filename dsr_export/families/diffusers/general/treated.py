"""What is done to the tokens of a denoiser of any class: registers in its blocks, replacement behind them."""

from __future__ import annotations

from collections.abc import Sequence

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.blocks import check_batch_first, seen_blocks
from dsr_export.families.diffusers.general.inserting.hooks import insert
from dsr_export.families.diffusers.general.inserting.plan import Plan, plan_of
from dsr_export.families.diffusers.general.joined import blocks_seen
from dsr_export.families.diffusers.general.replacing import replace_in
from dsr_export.families.diffusers.general.running import DrawnRuns
from dsr_export.families.diffusers.register_rows import AskedRegisters
from dsr_export.spec import DenoiserSpec, ReplaceSpec

ROWS = 2  # more than one, so that what belongs to a row of the batch is told from what belongs to a token


def treat(runs: DrawnRuns, groups: Sequence[ReplaceSpec], registers: AskedRegisters, class_name: str) -> DenoiserSpec:
    """Finds the blocks of the module of `runs`, and inserts what is asked for; says what the module then has.

    Raises ExportError where no block is found, for groups and registers that do not fit, and where a block has no
    room for registers.
    """
    if not groups and not registers.any:
        return DenoiserSpec()
    module = runs.module
    found = seen_blocks(module.transformer, lambda _: runs.untouched(ROWS, class_name))
    if not found:
        hint = "insert dsr_export.registers in code of your own, and give it as module:callable"
        raise ExportError(f"{class_name} has no list of blocks that hand tokens on, so none can be followed", hint=hint)
    check_batch_first(found, lambda: runs.run(ROWS + 1))
    blocks = blocks_seen(found, lambda other: runs.run(ROWS, other))
    rows = registers.rows(max(block.widths.get("image", 0) for block in blocks)) if registers.any else None
    start = registers.start(len(blocks), rows)
    plan: Plan | None = None
    if rows is not None:
        batch = 1 if module.call.one_by_one else ROWS
        plan = plan_of(class_name, found, blocks, rows, start, lambda seed: runs.run(ROWS, seed=seed), batch)
        module.registers = rows
    inside = blocks if plan is None else tuple(plan.block(block) for block in blocks)
    replace_in(module, inside, groups, start if plan is not None else None)
    if plan is None:
        module.blocks = blocks
        return DenoiserSpec(replace=tuple(groups))
    insert(module, blocks, plan)
    module.blocks = tuple(plan.block(block, behind=True) for block in blocks)
    places = {length: row for length, row in plan.rows.items() if row}
    return DenoiserSpec(kind="diffusion", registers=plan.count, start=start, rows=places, replace=tuple(groups))
