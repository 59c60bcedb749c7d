"""What adapters of classes that cut a latent into patches themselves share."""

from __future__ import annotations

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.positions import sincos_table
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser

TIMESTEPS = 1000.0  # schedulers count them from 0 to 1000


class Patched(DiffusersDenoiser):
    """Cuts a latent [B, C, H, W] into patches itself; its table of positions is cropped to the size asked."""

    def latent(self, channels: int) -> tuple[int, int, int]:
        return channels, self.size.height, self.size.width

    def output_shape(self) -> tuple[int | str, ...]:
        return ("batch", *self.latent(self.transformer.out_channels))

    def prepare(self) -> None:
        embed, patch = self.transformer.pos_embed, self.transformer.config.patch_size
        rows, odd_rows = divmod(self.size.height, patch)
        columns, odd_columns = divmod(self.size.width, patch)
        if odd_rows or odd_columns:
            raise ExportError(f"patches of {patch} do not divide a {self.size.height}x{self.size.width} latent")
        largest = embed.pos_embed_max_size
        if largest and max(rows, columns) > largest:
            raise ExportError(
                f"a {self.size.height}x{self.size.width} latent has more than {largest} patches a side",
                hint=f"the position table ends at {largest * patch}x{largest * patch}",
            )
        if largest:  # cropped here: the whole table would stay in the graph
            table = embed.cropped_pos_embed(self.size.height, self.size.width).clone()
        else:
            table = sincos_table(self.dim, rows, columns, base=embed.base_size, scale=embed.interpolation_scale)
        embed.height, embed.width, embed.pos_embed, embed.pos_embed_max_size = rows, columns, table, None
