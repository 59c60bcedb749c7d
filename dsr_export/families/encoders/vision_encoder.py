"""A ViT encoder as the RAE pipeline uses it, around the layers of a `transformers` model, with registers.

Sources: RAE (arXiv 2510.11690), DSR (arXiv 2605.05206), test-time registers (arXiv 2506.08010).
Shapes: B batch, P prefix rows (CLS and trained registers), N patches, R appended registers, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.encoders.combination import Combination
from dsr_export.families.encoders.layer_tables import GrownBias, LayerTables
from dsr_export.families.encoders.observed import first_tensor
from dsr_export.families.network_parts.randomise import Moments, draw_weights, usual_moments
from dsr_export.registers import TestTimeRegisters
from dsr_export.spec import EncoderSpec


@dataclass(frozen=True, kw_only=True)
class EncoderParts:
    """The parts of a model that make patch tokens; its heads, and the affine of its final norm, stay behind.

    `projection` makes patches of an image (a convolution) or of flat patches (a linear layer), and `patch_norm` what
    enters the sequence. `prefix` [1, P, C] holds CLS and registers as they enter it, the last `trained` of them
    registers; `position` [1, N, C] is added to the patches, `grid` (rows, columns) of them. `entry` is a norm in front
    of the first layer, `tables` what layers read beside tokens, `norm` is applied to the patches that leave.
    """

    projection: nn.Conv2d | nn.Linear
    patch_norm: nn.Module | None
    position: Tensor
    prefix: Tensor
    trained: int
    grid: tuple[int, int]
    entry: nn.Module | None
    layers: nn.ModuleList
    tables: LayerTables
    norm: nn.Module
    combination: Combination


class VisionEncoder(nn.Module):
    """`forward(image [B, 3, H, W]) -> tokens [B, N, C]`, or what `tail` makes of them; `head` prepares the image.

    The sequence is prefix, patches, appended registers; only patches leave. Where the model reads flat patches, as
    SigLIP2 in its NaFlex form does, `image` is [B, N, 3 * p * p].
    """

    appended: Tensor

    def __init__(self, parts: EncoderParts) -> None:
        super().__init__()
        self.head: nn.Module | None = None
        self.projection = parts.projection
        self.patch_norm = parts.patch_norm
        self.position = _parameter(parts.position)
        self.prefix = _parameter(parts.prefix)
        self.register_buffer("appended", torch.zeros(1, 0, self.position.shape[2]), persistent=False)
        self.entry = parts.entry
        self.layers = parts.layers
        self.tables = parts.tables
        self.norm = parts.norm
        self.combination = parts.combination
        self.trained_registers, self.grid = parts.trained, parts.grid
        self.tail: nn.Module | None = None

    @property
    def patches(self) -> int:
        return self.position.shape[1]

    @property
    def channels(self) -> int:
        return self.position.shape[2]

    @property
    def channels_in(self) -> int:
        """Of an image, or the numbers in a flat patch."""
        projection = self.projection
        assert isinstance(projection, nn.Conv2d | nn.Linear)
        return projection.in_channels if isinstance(projection, nn.Conv2d) else projection.in_features

    @property
    def patch(self) -> tuple[int, int] | None:
        """Height and width of a patch in pixels; None where patches come flat."""
        if not isinstance(self.projection, nn.Conv2d):
            return None
        height, width = self.projection.kernel_size
        return int(height), int(width)

    def add_test_time_registers(self, spec: EncoderSpec) -> None:
        """Appends the registers of `spec`, and moves its neurons' activations onto them in each listed layer.

        Raises ExportError for a layer or an index that the model does not have, and for layers without such neurons.
        """
        scale = spec.scale * spec.registers if len(spec.scale) == 1 else spec.scale
        for layer, neurons in spec.neurons.items():
            self._check_layer(layer)
            name, linear = self.mlp_output(layer)
            _check_neurons(layer, neurons, linear.in_features)
            shift = TestTimeRegisters(neurons, registers=spec.registers, scale=scale, normal_values=spec.normal_values)
            self.layers[layer].set_submodule(name, _ShiftedLinear(linear, shift))
        self.append_rows(spec.registers)
        self._check_rows()

    def _check_layer(self, layer: int) -> None:
        last = self.combination.layers[-1]
        if not 0 <= layer < len(self.layers):
            raise ExportError(
                f"register neurons in layer {layer}: the model has layers 0 to {len(self.layers) - 1}",
                hint="the table was made for another model",
            )
        if layer > last:
            raise ExportError(f"register neurons in layer {layer}, and the output is made of layers up to {last}")

    @torch.no_grad()
    def _check_rows(self) -> None:
        """Runs once: a layer whose attention has a place for each token would fail later, and say less."""
        size: tuple[int, ...] = (self.patches, self.channels_in)
        if self.patch is not None:
            size = (self.channels_in, *(count * side for count, side in zip(self.grid, self.patch, strict=True)))
        try:
            self(self.position.new_zeros(1, *size))
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(f"the layers take no appended register rows: {reason}") from error

    def append_trained(self, rows: Tensor) -> None:
        """Makes registers [R, C] the end of the sequence. ExportError where the layers take no more rows."""
        self.append(rows[None].to(self.position.dtype))
        self._check_rows()

    def append_rows(self, count: int) -> None:
        """Makes `count` rows of zeros the end of the sequence, in place of those that are there."""
        self.append(self.position.new_zeros(1, count, self.channels))

    def append(self, rows: Tensor) -> None:
        """Makes `rows` [1, R, C] the end of the sequence, in place of those that are there."""
        self.appended = rows
        self.tables.append(rows.shape[1])
        for part in self.layers.modules():
            if isinstance(part, GrownBias):
                part.rows = rows.shape[1]

    def mlp_output(self, layer: int) -> tuple[str, nn.Linear]:
        """The linear layer that ends the MLP of `layer`, and its name there: what it reads are the MLP's neurons.

        These are the activations behind the non-linearity, and behind the gate of a gated MLP. Found by its place: the
        last one outside the attention that gives tokens back. Raises ExportError where there is none.
        """
        found = [
            (name, part)
            for name, part in self.layers[layer].named_modules()
            if isinstance(part, nn.Linear) and part.out_features == self.channels and "att" not in name.lower()
        ]
        if not found:
            kind = type(self.layers[layer]).__name__
            raise ExportError(f"layer {layer} ({kind}) has no MLP that ends in a linear layer, hence no neurons")
        return found[-1]

    def forward(self, image: Tensor) -> Tensor:
        tokens = self._embedded(image if self.head is None else self.head(image))  # [B, P + N + R, C]
        chosen, first = [], self.prefix.shape[1]
        for number, layer in enumerate(self.layers):
            args, kwargs = self.tables.of(number)
            tokens = first_tensor(layer(tokens, *args, **kwargs))
            if number in self.combination.layers:
                chosen.append(self.norm(tokens[:, first : first + self.patches]))
        combined = self._combined(chosen)
        return combined if self.tail is None else self.tail(combined)

    def _embedded(self, image: Tensor) -> Tensor:
        tokens = self.projection(image)
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        tokens = (tokens if self.patch_norm is None else self.patch_norm(tokens)) + self.position  # [B, N, C]
        batch = tokens.shape[0]
        if self.prefix.shape[1]:
            tokens = torch.cat([self.prefix.expand(batch, -1, -1), tokens], dim=1)
        if self.appended.shape[1]:
            tokens = torch.cat([tokens, self.appended.expand(batch, -1, -1)], dim=1)
        return tokens if self.entry is None else self.entry(tokens)  # type: ignore[no-any-return]

    def _combined(self, chosen: list[Tensor]) -> Tensor:
        made = chosen[0]
        for tokens in chosen[1:]:
            made = made + tokens
        if self.combination.how == "mean" and len(chosen) > 1:
            made = made / len(chosen)
        return made + chosen[-1].mean(dim=1, keepdim=True) if self.combination.plus_mean else made


class _ShiftedLinear(nn.Linear):
    """The linear layer that ends an MLP, its weights under the same names, behind test-time registers."""

    def __init__(self, linear: nn.Linear, shift: TestTimeRegisters) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.shift = shift

    def forward(self, a: Tensor) -> Tensor:  # [B, P + N + R, H] -> [B, P + N + R, C]
        return super().forward(self.shift(a))


def _parameter(rows: Tensor) -> nn.Parameter:
    """A copy in memory order: random weights are drawn in that order."""
    return nn.Parameter(rows.detach().clone(memory_format=torch.contiguous_format))


def _check_neurons(layer: int, neurons: tuple[int, ...], width: int) -> None:
    for index in neurons:
        if index >= width:
            raise ExportError(
                f"layer {layer}, neuron {index}: the MLP has neurons 0 to {width - 1}",
                hint="the table was made for another model",
            )


def randomise(encoder: VisionEncoder, seed: int) -> None:
    """Draws every weight in place from `seed`."""
    draw_weights(encoder, seed, _moments)


def _moments(name: str, weight: Tensor) -> Moments:
    return (0.0, 0.5) if name in ("position", "prefix") else usual_moments(name, weight)
