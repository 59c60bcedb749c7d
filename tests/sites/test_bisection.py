"""The search: the first site at fault, by what the build measured, or by a jump where no build vouches for anything."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.sites.bisection import bisect
from dsr_export.sites.errors import SiteError
from dsr_export.sites.tap_file import GRAPH, ReferenceTap
from dsr_export.sites.token_roles import RegisterRows
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Sample

FP16 = TOLERANCES["fp16"]
NO_REGISTERS = RegisterRows(0, 0, False, frozenset())
PLACES = [  # in the graph's order: a block's modulation stands in front of all blocks
    ("embedder", "embedder", True),
    ("blocks.1.modulation", "blocks.1", False),
    ("blocks.0.attn", "blocks.0", False),
    ("blocks.0", "blocks.0", True),
    ("blocks.1.attn", "blocks.1", False),
    ("blocks.1", "blocks.1", True),
    ("head", "head", True),
]


def _errors(lost: set[str] | None = None, **snr: float) -> list[SiteError]:
    named = {name.replace("_", "."): value for name, value in snr.items()}
    sample = Sample(np.ones((1, 3, 2), np.float32), np.ones((1, 3), np.float32))
    errors = []
    for tensor, group, outer in PLACES:
        site = Site(tensor=tensor, module=tensor, group=group, shape=(3, 2), outer=outer)
        gone = tensor in (lost or set())
        value = -300.0 if gone else named.get(tensor, 70.0)
        errors.append(SiteError(ReferenceTap(site, sample, GRAPH), None if gone else sample, value, lost=gone))
    return errors


BUILT = {tensor: 70.0 for tensor, _, _ in PLACES}


def _named(errors: list[SiteError], built: dict[str, float]) -> tuple[str, str] | None:
    fault = bisect(errors, NO_REGISTERS, FP16, built).fault
    return None if fault is None else (fault.reference.site.group, fault.reference.site.module)


def test_the_first_bad_site_inside_the_first_bad_block_is_named() -> None:
    errors = _errors(blocks_1_attn=30.0, blocks_1=35.0, head=33.0)
    assert _named(errors, BUILT) == ("blocks.1", "blocks.1.attn")


def test_what_the_build_did_better_is_a_fault_within_the_outputs_tolerance() -> None:
    assert _named(_errors(blocks_0_attn=50.0, blocks_0=50.0, blocks_1=38.0), BUILT) == ("blocks.0", "blocks.0.attn")


def test_a_little_more_noise_than_at_the_build_is_none() -> None:
    noisy = {tensor.replace(".", "_"): 62.0 for tensor, _, _ in PLACES}
    assert _named(_errors(**noisy), BUILT) is None


def test_later_modulation_does_not_hide_an_earlier_block() -> None:
    """Both are bad; the modulation of block 1 comes first in the file, and last in the model."""
    errors = _errors(blocks_1_modulation=20.0, blocks_0_attn=20.0, blocks_0=30.0, blocks_1=25.0, head=20.0)
    assert _named(errors, BUILT) == ("blocks.0", "blocks.0.attn")


def test_a_site_that_nobody_reads_any_more_is_named() -> None:
    errors = _errors(lost={"blocks.0.attn"}, blocks_1=30.0, head=30.0)
    assert _named(errors, BUILT) == ("blocks.0", "blocks.0.attn")


def test_without_a_build_to_compare_with_the_jump_counts() -> None:
    """A model that wears down to 39 dB has its fault where it drops to 10."""
    worn = {"embedder": 44.0, "blocks_1_modulation": 44.0, "blocks_0_attn": 39.5, "blocks_0": 39.0}
    fallen = {"blocks_1_attn": 10.0, "blocks_1": 12.0, "head": 11.0}
    assert _named(_errors(**worn, **fallen), {}) == ("blocks.1", "blocks.1.attn")
    assert _named(_errors(**worn, blocks_1_attn=38.0, blocks_1=38.0), {}) == ("blocks.0", "blocks.0.attn")


@pytest.mark.parametrize("lost", [set(), {"blocks.0.attn"}])
def test_what_a_build_never_saw_is_not_judged(lost: set[str]) -> None:
    built = {tensor: snr for tensor, snr in BUILT.items() if tensor != "blocks.0.attn"}
    errors = _errors(lost=lost, blocks_0_attn=5.0)
    assert _named(errors, built) is None
