"""What some classes reach for that a graph has no room for, and what stands in for it while they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
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


def _picture_or_not(transformer: Any) -> AbstractContextManager[Any]:
    """HunyuanVideo 1.5 looks whether the picture's tokens are all zeros; its config says so beforehand."""
    return mock.patch.object(torch, "all", return_value=transformer.config.task_type == "t2v")


def _whole_film(transformer: Any) -> AbstractContextManager[Any]:
    """Cosmos 3 writes the frames that are noisy into zeros; here all are, and the film is what was made."""
    side, channels = transformer.config.latent_patch_size, transformer.config.latent_channel

    def unpacked(
        _: Any, packed_mse_preds: Tensor, token_shapes_vision: list[tuple[int, int, int]], **__: Any
    ) -> list[Tensor]:
        frames, rows, columns = token_shapes_vision[0]
        cells = packed_mse_preds.reshape(frames, rows, columns, side, side, channels).permute(5, 0, 1, 3, 2, 4)
        return [cells.reshape(1, channels, frames, rows * side, columns * side)]

    return mock.patch.object(type(transformer), "_unpatchify_and_unpack_latents", unpacked)


def _all_experts(transformer: Any) -> AbstractContextManager[Any]:
    """HiDream sends each token to some experts; a graph has all of them look, and weighs those not chosen with 0."""

    def mixed(self: Any, x: Tensor, flat_expert_indices: Tensor, flat_expert_weights: Tensor) -> Tensor:
        chosen = flat_expert_indices.view(-1, self.num_activated_experts)
        weights = flat_expert_weights.view(-1, self.num_activated_experts)
        made = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            made = made + expert(x) * torch.where(chosen == i, weights, 0).sum(-1, keepdim=True)
        return made

    side, own = transformer.config.patch_size, type(transformer).patchify
    grid: list[int] = []

    def patchify(self: Any, latent: Tensor) -> Any:
        grid[:] = latent.shape[-2] // side, latent.shape[-1] // side
        return own(self, latent)

    def unpatchify(self: Any, x: Tensor, *_: Any) -> Tensor:
        rows, columns = grid  # of every row of the batch: diffusers goes through them one by one
        cells = x[:, : rows * columns].reshape(-1, rows, columns, side, side, x.shape[-1] // side**2)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, cells.shape[-1], rows * side, columns * side)

    stack = ExitStack()
    stack.enter_context(mock.patch.object(_module(transformer).MOEFeedForwardSwiGLU, "moe_infer", mixed))
    stack.enter_context(mock.patch.multiple(type(transformer), patchify=patchify, unpatchify=unpatchify))
    return stack


def _masked_prompts(transformer: nn.Module) -> AbstractContextManager[Any]:
    """Mochi takes each prompt's padding out, row by row; here a mask hides it, and its own outputs are zeros."""
    from diffusers.models.attention_processor import MochiAttnProcessor2_0

    def attended(
        _: Any, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *how: Any, **named: Any
    ) -> Any:
        mask, rotary = _mask_and_rotary(*how, **named)
        picture = [make(hidden_states).unflatten(2, (attn.heads, -1)) for make in (attn.to_q, attn.to_k, attn.to_v)]
        made_by = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        prompt = [make(encoder_hidden_states).unflatten(2, (attn.heads, -1)) for make in made_by]
        picture[:2] = [_turned(norm(x), rotary) for norm, x in zip((attn.norm_q, attn.norm_k), picture, strict=False)]
        norms = (attn.norm_added_q, attn.norm_added_k)
        prompt[:2] = [norm(x) for norm, x in zip(norms, prompt, strict=False)]
        q, k, v = (torch.cat(pair, 1).transpose(1, 2) for pair in zip(picture, prompt, strict=True))
        seen = nn.functional.pad(mask.bool(), (hidden_states.shape[1], 0), value=True)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        out = out.transpose(1, 2).flatten(2, 3) * seen[:, :, None]
        count = hidden_states.shape[1]
        text = attn.to_add_out(out[:, count:]) if hasattr(attn, "to_add_out") else out[:, count:]
        return attn.to_out[0](out[:, :count]), text

    return mock.patch.object(MochiAttnProcessor2_0, "__call__", attended)


def _mask_and_rotary(attention_mask: Tensor, image_rotary_emb: Any = None) -> tuple[Tensor, Any]:
    return attention_mask, image_rotary_emb


def _turned(x: Tensor, rotary: Any) -> Tensor:
    """Neighbouring channels as one complex number, turned by these cosines and sines."""
    if rotary is None:
        return x
    (cos, sin), even, odd = rotary, x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def _dense_attention(transformer: nn.Module) -> AbstractContextManager[Any]:
    """AnyFlow FAR asks for an attention of blocks: the same, by a mask of what sees what."""
    from torch.nn.attention import flex_attention

    def attended(query: Tensor, key: Tensor, value: Tensor, block_mask: Any = None, **how: Any) -> Tensor:
        mask = None
        if block_mask is not None:
            sizes = query.shape[-2], key.shape[-2]
            mask = flex_attention.create_mask(block_mask.mask_mod, 1, 1, *sizes, device="cpu")
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=how.get("scale"))

    return mock.patch.object(flex_attention, "flex_attention", attended)


_STAND_INS: Mapping[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "AnyFlowFARTransformer3DModel": _dense_attention,
    "Cosmos3OmniTransformer": _whole_film,
    "CosmosTransformer3DModel": _without_torchvision,
    "HiDreamImageTransformer2DModel": _all_experts,
    "MochiTransformer3DModel": _masked_prompts,
    "HunyuanVideo15Transformer3DModel": _picture_or_not,
}
