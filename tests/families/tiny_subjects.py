"""One small random subject per family: what the contract suite runs over. A family adds one line to `TINY`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dsr_export.families import load_subject
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

MEDIAN = ReplaceSpec(layers=(1, 2), rule="median", threshold=1.3, rounds=2)


def rae_dit() -> Subject:
    """Registers from block 1, replacement at blocks 1 and 2."""
    return load_subject(
        "rae-dit",
        random_weights=0,
        registers=4,
        replace=[MEDIAN],
        input_size=4,
        in_channels=8,
        hidden_size=48,
        depth=3,
        num_heads=4,
        num_classes=5,
        register_start=1,
    )


TINY: Mapping[str, Callable[[], Subject]] = {
    "rae-dit": rae_dit,
}
