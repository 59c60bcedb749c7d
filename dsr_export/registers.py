"""Dual-Stage Registers as readable PyTorch modules, traced to single nodes of the `dsr` ONNX domain.

Sources: arXiv 2605.05206 (diffusion registers, recursive replacement), arXiv 2506.08010 (test-time registers).
Shapes: B batch, N tokens, R registers, D channels, H MLP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Rule = Literal["absolute", "median", "sigma"]
Choice = Literal["nearest", "gate", "mask", "clip"]
NormalValues = Literal["zero", "mean", "only_outliers", "same"]


class DiffusionRegisters(nn.Module):
    """Register rows prepended to a token sequence, and dropped again before the final layer."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.register_tokens = nn.Parameter(torch.randn(1, count, dim))
        self.register_pos_embed = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, R + N, D]
        return self.prepend(tokens, (self.register_tokens + self.register_pos_embed)[0])

    @staticmethod
    def prepend(tokens: Tensor, registers: Tensor) -> Tensor:
        return torch.cat([registers[None].expand(tokens.shape[0], -1, -1), tokens], dim=1)

    @staticmethod
    def drop(tokens: Tensor, count: int) -> Tensor:
        return tokens[:, count:]


class RecursiveReplacement(nn.Module):
    """Finds high-norm tokens and replaces each by its best-fitting register, again and again, `rounds` times.

    `registers` [R, D] may be given here, or per call (a denoiser passes its own). `choice="gate"` learns which
    mixture of registers to blend in and how strongly; `mask` (zero the token) and `clip` (scale it down to the
    threshold) are the paper's baselines and need no registers. Rows in `exclude` are neither counted nor replaced.
    """

    registers: Tensor | None
    enabled = True
    """Switched off, tokens pass unchanged and nothing is traced: what a comparison with and without needs."""
    source = ""
    """The file that the registers and the gate come from, where one does."""

    def __init__(
        self,
        *,
        rule: Rule,
        threshold: float,
        rounds: int = 1,
        choice: Choice = "nearest",
        exclude: Sequence[int] = (),
        registers: Tensor | None = None,
        gate_shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.rule, self.threshold, self.rounds, self.choice = rule, float(threshold), rounds, choice
        self.exclude = list(exclude)
        self.register_buffer("registers", registers, persistent=False)
        if choice == "gate":
            if gate_shape is None:
                raise ValueError("choice='gate' needs gate_shape=(registers, dim)")
            self.choice_weight = nn.Parameter(torch.zeros(gate_shape[1], gate_shape[0]))
            self.gate_weight = nn.Parameter(torch.zeros(gate_shape[1], 1))
            self.gate_bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, registers: Tensor | None = None) -> Tensor:
        if not self.enabled:
            return x
        rows = self.registers if registers is None else registers
        if rows is None:
            if self.choice in ("nearest", "gate"):
                raise ValueError(f"choice={self.choice!r} needs registers")
            rows = x.new_zeros(1, x.shape[-1])  # mask and clip read no register
        gate = (self.choice_weight, self.gate_weight, self.gate_bias) if self.choice == "gate" else (None,) * 3
        y: Tensor = replace_outliers(x, rows, *gate, self.rule, self.threshold, self.rounds, self.choice, self.exclude)
        return y


class TestTimeRegisters(nn.Module):
    """Moves register-neuron activations of an MLP onto appended register rows (arXiv 2506.08010).

    `a` [B, N + R, H] is the activation after the non-linearity. One scalar per image, the signed maximum over all
    tokens and the listed `neurons`, is written to the register rows; the other rows get `normal_values`.
    Row 0 is never touched: the released slice starts at 1 although SigLIP2 has no CLS, and released latents
    were made that way.
    """

    __test__ = False  # the name is the method's, not pytest's
    enabled = True
    """Switched off, activations pass unchanged and nothing is traced."""

    def __init__(
        self,
        neurons: Sequence[int],
        *,
        registers: int = 1,
        scale: float | Sequence[float] = 1.0,
        normal_values: NormalValues = "zero",
    ) -> None:
        super().__init__()
        if not neurons or registers < 1:
            raise ValueError("test-time registers need at least one neuron and one register")
        self.neurons = sorted(set(neurons))  # a duplicate would be an undefined scatter in ONNX
        self.count, self.normal_values = registers, normal_values
        self.scale = [float(scale)] * registers if isinstance(scale, int | float) else [float(s) for s in scale]
        if len(self.scale) != registers:
            raise ValueError(f"{len(self.scale)} scales for {registers} registers")

    def append(self, tokens: Tensor) -> Tensor:  # [B, N, D] -> [B, N + R, D], zero rows, no position
        return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], self.count, tokens.shape[2])], dim=1)

    def drop(self, tokens: Tensor) -> Tensor:
        return tokens[:, : -self.count]

    def forward(self, a: Tensor) -> Tensor:
        if not self.enabled:
            return a
        shifted: Tensor = shift_register_neurons(a, self.neurons, self.count, self.scale, self.normal_values)
        return shifted


@torch.library.custom_op("dsr::replace_outliers", mutates_args=())
def replace_outliers(
    x: Tensor,
    registers: Tensor,
    choice_weight: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: list[int],
) -> Tensor:
    """x [B, N, D], registers [R, D] -> [B, N, D]: one node in a trace. Gradients are those of `replaced`."""
    gate = choice_weight, gate_weight, gate_bias
    return replaced(x, registers, gate, rule, threshold, rounds, choice, exclude)


def replaced(
    x: Tensor,
    registers: Tensor,
    gate: tuple[Tensor | None, Tensor | None, Tensor | None],
    rule: str,
    threshold: float,
    rounds: int,
    choice: str,
    exclude: Sequence[int],
) -> Tensor:
    """The definition: x [B, N, D], registers [R, D] -> [B, N, D]. Stops early where nothing is an outlier."""
    counted = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    counted[list(exclude)] = False
    x = x.clone(memory_format=torch.contiguous_format)
    for _ in range(rounds if counted.any() else 0):
        norms = _norms(x)  # [B, N]
        limit = outlier_limit(norms[:, counted], rule, threshold)  # [B, 1]
        outlier = ((norms > limit) | ~norms.isfinite()) & counted
        if not outlier.any():
            break
        corrected = _corrected(x, norms, limit, outlier, registers, gate, choice)
        x = torch.where(outlier[..., None], corrected.to(x.dtype), x)
    return x


@replace_outliers.register_fake
def _(x: Tensor, registers: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _gradients(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """By the definition once more, so that nothing but its inputs is kept. What is an outlier has no gradient."""
    needed = context.needs_input_grad[:5]
    given: list[Any] = [None if each is None else each.detach() for each in context.saved_tensors]
    wanted = [each.requires_grad_() for each, need in zip(given, needed, strict=True) if need and each is not None]
    with torch.enable_grad():
        made = replaced(given[0], given[1], (given[2], given[3], given[4]), *context.settings)
    found = iter(torch.autograd.grad(made, wanted, gradient, allow_unused=True) if made.requires_grad else ())
    return (*(next(found, None) if need else None for need in needed), *(None for _ in context.settings))


replace_outliers.register_autograd(_gradients, setup_context=_keep_inputs)


def _norms(x: Tensor) -> Tensor:
    """[B, N] float32 of [B, N, D]; not finite for a token that is not, whose gradient is then 0 and no NaN."""
    h = x.float()
    norms: Tensor = torch.linalg.vector_norm(h, dim=-1)
    finite = norms.isfinite()
    if finite.all():
        return norms
    return torch.where(finite, torch.linalg.vector_norm(torch.where(finite[..., None], h, 0), dim=-1), torch.inf)


def outlier_limit(norms: Tensor, rule: str, value: float) -> Tensor:
    """Threshold per image, [B, 1], from the counted norms [B, n]. Non-finite norms sort last and join no mean."""
    finite = norms.isfinite()
    if rule == "absolute":
        return norms.new_full((norms.shape[0], 1), value)
    if rule == "median":
        return value * torch.where(finite, norms, torch.inf).median(dim=1, keepdim=True).values
    count = finite.sum(dim=1, keepdim=True).clamp(min=1)
    mean = torch.where(finite, norms, 0).sum(dim=1, keepdim=True) / count
    variance = torch.where(finite, norms - mean, 0).square().sum(dim=1, keepdim=True) / count
    return mean + value * torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)  # a root has no slope at 0


def _corrected(
    x: Tensor,
    norms: Tensor,
    limit: Tensor,
    outlier: Tensor,
    registers: Tensor,
    gate: tuple[Tensor | None, Tensor | None, Tensor | None],
    choice: str,
) -> Tensor:
    """What an outlier becomes, [B, N, D] float32; a token with a non-finite norm has no direction left.

    Tokens that are no outliers, and broken ones, count as 0: what is not finite in them would make gradients NaN.
    """
    fits = outlier & norms.isfinite()  # [B, N]
    h, rows = torch.where(fits[..., None], x.float(), 0), registers.float()
    if choice == "mask":
        return torch.zeros_like(h)
    if choice == "clip":
        return h * (torch.where(fits, limit, 0) / torch.where(fits, norms, 1))[..., None]
    if choice == "nearest":
        return rows[best_register(h, norms, rows)]
    choice_weight, gate_weight, gate_bias = (g.float() for g in gate if g is not None)
    mixture = (h @ choice_weight).softmax(dim=-1) @ rows
    strength = (h @ gate_weight + gate_bias).sigmoid()  # [B, N, 1]
    return torch.where(fits[..., None], h + strength * (mixture - h), rows[0])


def best_register(h: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """Index [B, N] of the register with the highest cosine similarity; ties take the lowest index.

    ||x|| > 0 divides every similarity of one token alike and so is left out. A zero register fits nothing;
    a token with a non-finite norm takes register 0.
    """
    unit = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # [R, D]
    similarity = h @ unit.T  # [B, N, R]
    similarity = torch.where(similarity.isnan(), -torch.inf, similarity)
    return torch.where(norms.isfinite(), similarity.argmax(dim=-1), 0)


@torch.library.custom_op("dsr::shift_register_neurons", mutates_args=())
def shift_register_neurons(
    a: Tensor, neurons: list[int], registers: int, scale: list[float], normal_values: str
) -> Tensor:
    """The definition: a [B, N + R, H] -> the same shape, written in place as the released hook does."""
    a = a.clone(memory_format=torch.contiguous_format)
    index = torch.tensor(sorted(set(neurons)), device=a.device)
    listed = a[:, :, index]
    high, low = listed.amax(dim=(1, 2)), listed.amin(dim=(1, 2))
    signed_max = torch.where(high.abs() > low.abs(), high, low)  # [B]
    normal = a[:, 1:-registers, index]  # row 0 is left alone, as released
    a[:, 1:-registers, index] = _normal_values(normal, normal_values)
    a[:, -registers:, index] = signed_max[:, None, None] * a.new_tensor(scale)[None, :, None]
    return a


@shift_register_neurons.register_fake
def _(a: Tensor, *_: object) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _normal_values(normal: Tensor, mode: str) -> Tensor:
    """What the listed neurons of ordinary rows [B, n, I] become."""
    if mode == "zero":
        return torch.zeros_like(normal)
    if mode == "same":
        return normal
    mean = normal.mean(dim=1, keepdim=True)
    if mode == "mean":
        return mean.expand_as(normal)
    if normal.shape[1] < 2:
        return normal  # the unbiased std of one row is undefined: nothing stands out
    return torch.where(normal > mean + normal.std(dim=1, keepdim=True), mean, normal)
