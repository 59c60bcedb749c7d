"""How wrappers and averaged weights are called in the checkpoints of known trainers."""

from __future__ import annotations

import re
from collections.abc import Collection

INNER = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module"})
"""What `torch.compile`, activation checkpointing, FSDP and Lightning Fabric put between two names. No module of a
user's own is called so."""
MODULE = "module"
"""DistributedDataParallel, DataParallel, AveragedModel, DeepSpeed. A user's module may be called so too."""
ONLINE = "online_model"
"""Beside `ema_model` in what ema_pytorch saves, mostly below an entry `ema`: the model's own weights."""
HOLDERS = frozenset(
    {MODULE, "model", "net", "network", "denoiser", "transformer", "dit", "sit", "diffusion_model", ONLINE}
    | {"state_dict", "model_state", "model_state_dict", "state", "params", "weights", "network_state_dict"}
    | {"current_model_state", "module_state_dict", "net_state_dict", "model_weights", "callbacks", "shadow"}
)
"""Attributes of training wrappers, and entries of what trainers save, that hold the model's own weights."""
FIRST_EMA = "model_ema1"
"""Of JiT's two averages, the one that it samples with."""
_EMA = re.compile(r"(^|_)ema\d*(_|\W|$)|^EMA|Ema(?![a-z])|^(swa|averaged)_model$", re.ASCII)


def without_inner(name: str) -> str:
    """`name` without the wrappers of `INNER`, wherever they stand."""
    return ".".join(part for part in name.split(".") if part not in INNER)


def is_ema(part: str) -> bool:
    """Whether an entry's name says that it holds averaged weights."""
    return _EMA.search(part) is not None


def is_holder(part: str) -> bool:
    """Whether an entry or a wrapper of this name holds a model's weights."""
    return part in HOLDERS or part in INNER or is_ema(part)


def holds_weights(prefix: str, own: Collection[str] = ()) -> bool:
    """Whether all parts of `prefix` are known, those in `own` too. Behind an average may be its rate: `ema_0.9`."""
    parts = parts_of(prefix)
    rates = [part.isdigit() and is_ema(before) for before, part in zip(["", *parts], parts, strict=False)]
    return all(is_holder(part) or part in own or rate for part, rate in zip(parts, rates, strict=True))


def parts_of(prefix: str) -> list[str]:
    """`a.b.` -> a, b."""
    return [part for part in prefix.split(".") if part]
