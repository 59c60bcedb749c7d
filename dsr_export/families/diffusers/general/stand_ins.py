"""What some classes reach for that a graph has no room for, and what stands in for it while they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


def standing_in(transformer: nn.Module) -> AbstractContextManager[Any]:
    """Within it the transformer can be called: a no-op for most classes."""
    made = _STAND_INS.get(type(transformer).__name__)
    return nullcontext() if made is None else made(transformer)


def _module(transformer: nn.Module) -> ModuleType:
    return sys.modules[type(transformer).__module__]


def _without_torchvision(transformer: nn.Module) -> AbstractContextManager[Any]:
    """Cosmos resizes a mask of padding to the latent's size by torchvision; the adapter's has that size already."""

    def resize(mask: Tensor, size: Sequence[int], **_: Any) -> Tensor:
        return mask

    functions = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
    return mock.patch.object(_module(transformer), "transforms", functions, create=True)


def _alone(transformer: nn.Module) -> AbstractContextManager[Any]:
    """Z-Image pads sequences to the longest of a batch; called row by row there is one, which needs none."""

    def stacked(sequences: Sequence[Tensor], **_: Any) -> Tensor:
        return torch.stack(list(sequences))

    return mock.patch.object(_module(transformer), "pad_sequence", stacked)


def _picture_or_not(transformer: Any) -> AbstractContextManager[Any]:
    """HunyuanVideo 1.5 looks whether the picture's tokens are all zeros; its config says so beforehand."""
    from_text = transformer.config.task_type == "t2v"
    return mock.patch.object(torch, "all", lambda *_, **__: from_text)


_STAND_INS: Mapping[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "CosmosTransformer3DModel": _without_torchvision,
    "HunyuanVideo15Transformer3DModel": _picture_or_not,
    "ZImageTransformer2DModel": _alone,
}
