"""A small transformer whose blocks are written in the ways people write them, exported as TorchScript does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.registers import RecursiveReplacement, TestTimeRegisters


class PlainViT(nn.Module):
    """`image [B, 3, 16, 16] -> [B, 16, 24]`; `replacements` and `shifts` are what `--dsr` inserts, natively.

    `style`: pre, post, parallel, sandwich, gated, cross, mlp-only, flat, late or macaron.
    """

    def __init__(self, style: str = "pre", *, depth: int = 3, mlp: str = "tanh", norm: str = "layer") -> None:
        super().__init__()
        self.style, dim = style, 24
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, dim))
        self.late = nn.Parameter(torch.randn(1, 3, dim))
        self.blocks = nn.ModuleList(Block(dim, style, mlp, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.replacements: dict[int, RecursiveReplacement] = {}
        self.shifts: dict[int, TestTimeRegisters] = {}

    def forward(self, image: Tensor) -> Tensor:
        h = self.embed(image).flatten(2).transpose(1, 2) + self.position
        condition = image.mean(dim=(2, 3))  # [B, 3]
        if self.shifts:
            h = next(iter(self.shifts.values())).append(h)
        for i, block in enumerate(self.blocks):
            if self.style == "late" and i == 1:
                h = torch.cat([self.late.expand(h.shape[0], -1, -1), h], dim=1)
            h = block(h, condition, self.shifts.get(i, nn.Identity()))
            h = self.replacements.get(i, nn.Identity())(h)
        if self.shifts:
            h = next(iter(self.shifts.values())).drop(h)
        return self.norm(h[:, 3:] if self.style == "late" else h)


class Block(nn.Module):
    def __init__(self, dim: int, style: str, mlp: str, norm: str) -> None:
        super().__init__()
        self.style, self.mlp = style, mlp
        make: Any = nn.LayerNorm if norm == "layer" else RMSNorm
        self.norm1, self.norm2, self.norm3 = make(dim), make(dim), make(dim)
        self.attn, self.cross = Attention(dim, style == "flat"), Attention(dim, False)
        self.fc1, self.fc2 = nn.Linear(dim, 40 if mlp != "swiglu" else 80), nn.Linear(40, dim)
        self.text, self.modulation = nn.Linear(3, 5 * dim), nn.Linear(3, 4 * dim)

    def feed(self, h: Tensor, shift: nn.Module) -> Tensor:
        h = h.view(-1, h.shape[2]) if self.style == "flat" else h
        a = self.fc1(h)
        a = a.view(-1, *self.rows, 40) if self.style == "flat" else a
        if self.mlp == "swiglu":
            gate, a = a.chunk(2, dim=-1)
            a = F.silu(gate) * a
        else:
            a = {"tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu, "silu": F.silu}[self.mlp](a)
        a = shift(a)
        if self.style != "flat":
            return self.fc2(a)
        return self.fc2(a.view(-1, 40)).view(-1, *self.rows, h.shape[1])

    def forward(self, h: Tensor, condition: Tensor, shift: nn.Module) -> Tensor:
        self.rows = (h.shape[1],)
        if self.style == "post":
            h = self.norm1(h + self.attn(h))
            return self.norm2(h + self.feed(h, shift))
        if self.style == "parallel":
            n = self.norm1(h)
            return h + self.attn(n) + self.feed(n, shift) if False else h + (self.attn(n) + self.feed(n, shift))
        if self.style == "sandwich":
            h = h + self.norm3(self.attn(self.norm1(h)))
            return h + self.norm3(self.feed(self.norm2(h), shift))
        if self.style == "gated":
            scale, gate, scale2, gate2 = self.modulation(condition)[:, None].chunk(4, dim=2)
            h = h + gate * self.attn(self.norm1(h) * (1 + scale))
            return h + self.feed(self.norm2(h) * (1 + scale2), shift) * gate2
        if self.style == "mlp-only":
            return h + self.feed(self.norm2(h), shift)
        if self.style == "macaron":
            h = h + 0.5 * self.feed(self.norm3(h), nn.Identity())
        h = h + self.attn(self.norm1(h))
        if self.style == "cross":
            h = h + self.cross(h, self.text(condition).view(-1, 5, h.shape[2]))
        return h + self.feed(self.norm2(h), shift)


class Attention(nn.Module):
    def __init__(self, dim: int, flat: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, h: Tensor, other: Tensor | None = None) -> Tensor:
        batch, tokens, dim = h.shape
        other = h if other is None else other

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, x.shape[1], 4, dim // 4).transpose(1, 2)

        q, k, v = heads(self.q(h)), heads(self.k(other)), heads(self.v(other))
        share = (q @ k.transpose(2, 3) * (dim // 4) ** -0.5).softmax(dim=-1)
        return self.out((share @ v).transpose(1, 2).reshape(batch, tokens, dim))


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, h: Tensor) -> Tensor:
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class ConvNet(nn.Module):
    """`x + conv(norm(x))` on pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        for conv in self.convs:
            image = image + conv(image.relu())
        return image


def plain_vit(style: str = "pre", **options: Any) -> PlainViT:
    """With random weights, the same each time."""
    torch.manual_seed(0)
    return PlainViT(style, **options).eval().requires_grad_(False)


def export(module: nn.Module, path: Path, *, opset: int = 20, batch: int | None = None) -> Path:
    """TorchScript's exporter: slash names, and shapes computed from shapes. `batch` fixes the batch."""
    example = torch.randn(batch or 2, 3, 16, 16)
    axes = {} if batch else {"image": {0: "n"}, "out": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), path, dynamo=False, opset_version=opset, dynamic_axes=axes,
            input_names=["image"], output_names=["out"],
        )  # fmt: skip
    return path
