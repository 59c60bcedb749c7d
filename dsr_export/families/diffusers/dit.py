"""DiT in diffusers: inputs, examples and the call. Its condition is a class: `x`, `t`, `y` as other such denoisers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw
from dsr_export.families.diffusers.patched import TIMESTEPS, Patched
from dsr_export.families.diffusers.wrapper import float_input, uniform
from graphs.artifacts import TensorSpec


class DiTDenoiser(Patched):
    """`DiTTransformer2DModel`, arXiv 2212.09748; with a learned variance, `out` has it in its last channels."""

    def prepare(self) -> None:
        super().prepare()
        if self.size.height != self.size.width:
            raise ExportError("DiTTransformer2DModel takes square latents only", hint="give one size for both")

    def outer_modules(self) -> tuple[str, ...]:
        """Every block embeds the time for itself; the label tables may be of low precision."""
        names = [f"transformer_blocks.{i}.norm1.emb" for i in range(self.config.depth)]
        parts = [f"{name}.{part}" for name in names for part in ("time_proj", "timestep_embedder")]
        return tuple(f"transformer.{name}" for name in ("pos_embed", *parts, "proj_out_1", "proj_out_2"))

    def inputs(self) -> tuple[TensorSpec, ...]:
        labels = TensorSpec(name="y", dtype="int64", shape=("batch",))
        return float_input("x", *self.latent(self.transformer.config.in_channels)), float_input("t"), labels

    @property
    def num_classes(self) -> int:
        return int(self.transformer.config.num_embeds_ada_norm)

    def draws(self) -> Mapping[str, Draw]:
        return {"t": uniform(0, TIMESTEPS)}

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.transformer(x, timestep=t, class_labels=y, return_dict=False)[0]  # type: ignore[no-any-return]
