"""Attention in every form: spelt out or SDPA, with each kind of mask, with norms of queries and keys, with RoPE."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.grammar import DIM, EPS, HEADS, TOKENS, Block, Extras, block, present

HEAD = DIM // HEADS
INPUT_OF: dict[str, tuple[str, ...]] = {
    "none": (),
    "causal": (),
    "causal_inf": (),
    "bias": ("bias",),
    "weight_log": ("weight",),
}
MASKS = ("none", "causal", "causal_inf", "keys", "keys_inf", "keys_min", "keys_1e4", "pairs", "pairs_where", "bias")
QK_NORMS = ("none", "rms", "l2", "layer", "cosine")


def _causal() -> Tensor:
    return torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()


def allowed(mask: str, keep: Tensor | None) -> Tensor:
    """Which key each query may look at, [B or 1, 1, N or 1, N] bool."""
    if mask.startswith("causal"):
        return _causal()[None, None]
    kept = present(keep)
    if mask.startswith("pairs"):
        return (kept[:, :, None] & kept[:, None, :])[:, None]
    return kept[:, None, None, :]


def added(mask: str, keep: Tensor | None, like: Tensor) -> Tensor:
    """The same as numbers to add to the scores, in the ways that models make them."""
    may = allowed(mask, keep)
    if mask.endswith("inf"):
        return torch.zeros_like(may, dtype=like.dtype).masked_fill(~may, -torch.inf)
    if mask.endswith("min") or mask == "pairs":  # a query without a key would be NaN in PyTorch too
        return (1.0 - may.to(like.dtype)) * torch.finfo(like.dtype).min
    if mask.endswith("1e4"):
        return (~may).to(like.dtype) * -1e4
    return torch.where(may, 0.0, float("-inf"))


class Heads(Block):
    """Queries, keys and values [B, heads, N, DIM / heads], and back."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, a: Tensor) -> Tensor:
        return self.out(a.transpose(1, 2).flatten(2))


@block("attention")
class Attention(Heads):
    """Softmax attention. `added`: the mask is added to the scores instead of filled in."""

    CHOICES: ClassVar = {
        "mask": MASKS,
        "sdpa": (True, False),
        "added": (True, False),
        "scale": (None, 0.125, 1.0),
        "qk_norm": QK_NORMS,
        "eps": EPS,
    }

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return INPUT_OF.get(choice["mask"], ("keep",))

    def __init__(self, mask: str, sdpa: bool, added: bool, scale: float | None, qk_norm: str, eps: float) -> None:
        super().__init__()
        self.mask, self.sdpa, self.added, self.scale, self.qk_norm, self.eps = mask, sdpa, added, scale, qk_norm, eps
        self.q_norm, self.k_norm = nn.LayerNorm(HEAD, eps=eps), nn.LayerNorm(HEAD, eps=eps)
        self.logit_scale = nn.Parameter(torch.log(torch.full((HEADS, 1, 1), 10.0)))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        q, k, v = self.split(x)
        q, k = self._normed(q, self.q_norm), self._normed(k, self.k_norm)
        if self.qk_norm == "cosine":
            q = q * self.logit_scale.clamp(max=math.log(100.0)).exp()
        return self.join(self._fused(q, k, v, extras) if self.sdpa else self._spelt(q, k, v, extras))

    def _normed(self, q: Tensor, layer: nn.Module) -> Tensor:
        if self.qk_norm == "none":
            return q
        if self.qk_norm == "layer":
            return layer(q)
        if self.qk_norm == "rms":
            return q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + self.eps)
        return F.normalize(q, dim=-1, eps=self.eps)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, extras: Extras) -> Tensor:
        attend = F.scaled_dot_product_attention
        if self.mask == "none":
            return attend(q, k, v, scale=self.scale)
        if self.mask == "causal":
            return attend(q, k, v, is_causal=True, scale=self.scale)
        if self.mask == "bias":
            return attend(q, k, v, attn_mask=present(extras.bias)[:, None], scale=self.scale)
        mask = added(self.mask, extras.keep, q) if self.added else allowed(self.mask, extras.keep)
        return attend(q, k, v, attn_mask=mask.expand(-1, 1, TOKENS, TOKENS), scale=self.scale)

    def _spelt(self, q: Tensor, k: Tensor, v: Tensor, extras: Extras) -> Tensor:
        scores = q @ k.transpose(-2, -1) * (HEAD**-0.5 if self.scale is None else self.scale)
        if self.mask == "bias":
            scores = scores + present(extras.bias).unsqueeze(1)
        elif self.mask == "pairs_where":
            scores = torch.where(allowed(self.mask, extras.keep), scores, torch.finfo(scores.dtype).min)
        elif self.mask != "none" and self.added:
            scores = scores + added(self.mask, extras.keep, scores)
        elif self.mask != "none":
            fill = torch.finfo(scores.dtype).min if self.mask in ("keys_min", "pairs") else -torch.inf
            scores = scores.masked_fill(~allowed(self.mask, extras.keep), fill)
        return scores.softmax(dim=-1) @ v


@block("linear_attention")
class LinearAttention(Heads):
    """No softmax: features of keys and queries, and a sum that may be zero but for `eps`."""

    CHOICES: ClassVar = {"feature": ("relu", "elu", "softmax", "square"), "eps": EPS, "masked": (False, True)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("keep",) if choice["masked"] else ()

    def __init__(self, feature: str, eps: float, masked: bool) -> None:
        super().__init__()
        self.feature, self.eps, self.masked = feature, eps, masked

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        q, k, v = self.split(x)
        q, k = self._features(q), self._features(k)
        if self.masked:
            k = k * present(extras.keep)[:, None, :, None]
        return self.join(q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT + self.eps))

    def _features(self, x: Tensor) -> Tensor:
        if self.feature == "elu":
            return F.elu(x) + 1
        if self.feature == "softmax":
            return x.softmax(-1)
        return F.relu(x) if self.feature == "relu" else x * x


@block("talking_heads")
class TalkingHeads(Heads):
    """Mixes the scores of heads before and after the softmax, in einsum."""

    CHOICES: ClassVar = {"mask": ("none", "keys_min")}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("keep",) if choice["mask"] == "keys_min" else ()

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.mask = mask
        self.before, self.after = (nn.Parameter(torch.eye(HEADS) + 0.1 * torch.randn(HEADS, HEADS)) for _ in range(2))

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        q, k, v = self.split(x)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * HEAD**-0.5
        scores = torch.einsum("bhij,hg->bgij", scores, self.before)
        if self.mask != "none":
            scores = scores.masked_fill(~present(extras.keep)[:, None, None], torch.finfo(torch.float32).min)
        weights = torch.einsum("bhij,hg->bgij", scores.softmax(-1), self.after)
        return self.join(torch.einsum("bhij,bhjd->bhid", weights, v))


@block("spelt_softmax")
class SpeltSoftmax(Heads):
    """exp, a sum over what is allowed, and a division that an eps keeps finite."""

    CHOICES: ClassVar = {"eps": EPS, "shifted": (True, False)}
    NEEDS: ClassVar = ("weight",)

    def __init__(self, eps: float, shifted: bool) -> None:
        super().__init__()
        self.eps, self.shifted = eps, shifted

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        q, k, v = self.split(x)
        scores = q @ k.mT * HEAD**-0.5
        scores = scores - scores.amax(-1, keepdim=True) if self.shifted else scores.clamp(-10, 10)
        weights = scores.exp() * present(extras.weight)[:, None, None, :]
        return self.join(weights / (weights.sum(-1, keepdim=True) + self.eps) @ v)


@block("multihead_module")
class MultiheadModule(Block):
    """nn.MultiheadAttention with the masks that it takes."""

    CHOICES: ClassVar = {"mask": ("none", "padding", "causal"), "weights": (True, False)}

    @classmethod
    def needs(cls, choice: Any) -> tuple[str, ...]:
        return ("keep",) if choice["mask"] == "padding" else ()

    def __init__(self, mask: str, weights: bool) -> None:
        super().__init__()
        self.attention, self.mask, self.weights = nn.MultiheadAttention(DIM, HEADS, batch_first=True), mask, weights

    def forward(self, x: Tensor, extras: Extras) -> Tensor:
        masks = {"key_padding_mask": ~present(extras.keep)} if self.mask == "padding" else {}
        if self.mask == "causal":
            masks = {"attn_mask": ~_causal()}
        return self.attention(x, x, x, need_weights=self.weights, **masks)[0]
