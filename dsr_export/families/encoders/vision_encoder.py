"""A ViT encoder as the RAE pipeline uses it, around the layers of a `transformers` model, with registers.

Sources: RAE (arXiv 2510.11690), DSR (arXiv 2605.05206), test-time registers (arXiv 2506.08010).
Shapes: B batch, P prefix rows (CLS and trained registers), N patches, R test-time registers, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.network_parts.randomise import Moments, draw_weights, usual_moments
from dsr_export.registers import TestTimeRegisters
from dsr_export.spec import EncoderSpec

_ACTIVATIONS = ("activation_fn", "activation")  # what releases of transformers call it


class VisionEncoder(nn.Module):
    """`forward(image [B, 3, H, W]) -> tokens [B, N, C]`, or what `tail` makes of them.

    The sequence is prefix, patches, test-time registers; only patches leave. The final LayerNorm has no affine, as
    released. `projection` and `layers` are the model's own modules; `prefix` [1, P, C] holds its CLS and registers
    as they enter the sequence, `position` [1, N, C] the patches' embedding at this resolution.
    """

    zero_rows: Tensor

    def __init__(
        self,
        *,
        projection: nn.Conv2d,
        position: Tensor,
        prefix: Tensor,
        layers: nn.ModuleList,
        norm_eps: float,
        tail: nn.Module | None = None,
    ) -> None:
        super().__init__()
        channels = position.shape[2]
        self.projection = projection
        self.position = nn.Parameter(position.detach().clone())
        self.prefix = nn.Parameter(prefix.detach().clone())
        self.register_buffer("zero_rows", torch.zeros(1, 0, channels), persistent=False)
        self.layers = layers
        self.norm = nn.LayerNorm(channels, eps=norm_eps, elementwise_affine=False)
        self.tail = tail

    @property
    def patches(self) -> int:
        return self.position.shape[1]

    @property
    def channels(self) -> int:
        return self.position.shape[2]

    def add_test_time_registers(self, spec: EncoderSpec) -> None:
        """Appends the registers of `spec`, and moves its neurons' activations onto them in each listed layer.

        Raises ExportError for a layer or an index that the model does not have, and for MLPs without such neurons.
        """
        for layer, neurons in spec.neurons.items():
            _check_layer(layer, len(self.layers))
            _shift_neurons(layer, self.layers[layer].get_submodule("mlp"), neurons, spec)
        self.zero_rows = torch.zeros(1, spec.registers, self.channels)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.projection(image).flatten(2).transpose(1, 2) + self.position  # [B, N, C]
        batch, prefix = tokens.shape[0], self.prefix.shape[1]
        if prefix:
            tokens = torch.cat([self.prefix.expand(batch, -1, -1), tokens], dim=1)
        if self.zero_rows.shape[1]:
            tokens = torch.cat([tokens, self.zero_rows.expand(batch, -1, -1)], dim=1)
        for layer in self.layers:
            made = layer(tokens, None)  # None: no attention mask
            tokens = made[0] if isinstance(made, tuple) else made  # transformers 4 and 5
        tokens = self.norm(tokens[:, prefix : prefix + self.patches])
        return tokens if self.tail is None else self.tail(tokens)  # type: ignore[no-any-return]


def _shift_neurons(layer: int, mlp: nn.Module, neurons: tuple[int, ...], spec: EncoderSpec) -> None:
    """Puts the shift behind the activation of `mlp`, where the released hook is."""
    name = next((name for name in _ACTIVATIONS if isinstance(getattr(mlp, name, None), nn.Module)), None)
    fc1 = getattr(mlp, "fc1", None)
    if name is None or not isinstance(fc1, nn.Linear):
        raise ExportError(
            f"layer {layer} has no MLP with one activation ({type(mlp).__name__}), so it has no register neurons",
            hint="test-time registers need a model with a plain MLP, not a gated one",
        )
    for index in neurons:
        if index >= fc1.out_features:
            raise ExportError(
                f"layer {layer}, neuron {index}: the MLP has neurons 0 to {fc1.out_features - 1}",
                hint="the table was made for another model",
            )
    scale = spec.scale * spec.registers if len(spec.scale) == 1 else spec.scale
    shift = TestTimeRegisters(neurons, registers=spec.registers, scale=scale, normal_values=spec.normal_values)
    setattr(mlp, name, nn.Sequential(getattr(mlp, name), shift))


def _check_layer(layer: int, depth: int) -> None:
    if not 0 <= layer < depth:
        raise ExportError(
            f"register neurons in layer {layer}: the model has layers 0 to {depth - 1}",
            hint="the table was made for another model",
        )


def randomise(encoder: VisionEncoder, seed: int) -> None:
    """Draws every weight in place from `seed`."""
    draw_weights(encoder, seed, _moments)


def _moments(name: str, weight: Tensor) -> Moments:
    return (0.0, 0.5) if name in ("position", "prefix") else usual_moments(name, weight)
