"""What identifies a module whose code alone does not: a digest of its weights, buffers and settings."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch
from torch import nn

from dsr_export.subject import Subject


def content_digest(subject: Subject) -> str:
    """sha256 over everything about the module that can change while its code does not: weights, buffers, settings."""
    digest = hashlib.sha256()
    for name, tensor in [*subject.module.named_parameters(), *subject.module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    for name, module in subject.module.named_modules():
        settings = {key: value for key, value in sorted(vars(module).items()) if _is_plain(value)}
        digest.update(f"{name} {type(module).__qualname__} {settings}\n".encode())
    for value in subject.example(2, seed=0).values():
        digest.update(value.tobytes())
    fields = dataclasses.replace(subject, module=nn.Identity(), draws={})
    digest.update(repr(fields).encode())
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
