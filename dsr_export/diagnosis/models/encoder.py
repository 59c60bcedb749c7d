"""An image encoder, seen by diagnosis; register neurons can be moved onto a test-time register and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dsr_export.diagnosis.neurons import Table
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.registers import TestTimeRegisters


class EncoderTokens:
    """The `TokenModel` of a vision encoder: rows are prefix (CLS, trained registers), patches, registers."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self.encoder = encoder

    @property
    def depth(self) -> int:
        return len(self.encoder.layers)

    def block(self, layer: int) -> nn.Module:
        return self.encoder.layers[layer]

    def tokens(self, layer: int) -> nn.Module:
        return self.encoder.layers[layer]

    def patch_rows(self, rows: int) -> slice:
        prefix = self.encoder.prefix.shape[1]
        return slice(prefix, prefix + self.encoder.patches)

    def mlp_activation(self, layer: int) -> nn.Module:
        return self.encoder.mlp_output(layer)[1]

    @contextmanager
    def with_neurons(self, table: Table) -> Iterator[None]:
        """The encoder with one test-time register that `table`'s activations move onto, as a build would make it.

        With an empty table it is bare; registers that the model was declared with are switched off either way.
        """
        rows, declared = self.encoder.appended, _declared(self.encoder)
        try:
            for site in declared:
                site.enabled = False
            self.encoder.append_rows(1 if table else 0)
            with ExitStack() as hooks:
                for layer, neurons in table.items():
                    shift = TestTimeRegisters(neurons, registers=1)
                    hooks.enter_context(self.mlp_activation(layer).register_forward_pre_hook(_shifted(shift)))
                yield
        finally:
            self.encoder.append(rows)
            for site in declared:
                del site.enabled  # the class's own value, True, is back


def _declared(encoder: VisionEncoder) -> list[TestTimeRegisters]:
    return [part for part in encoder.modules() if isinstance(part, TestTimeRegisters) and part.enabled]


def _shifted(shift: TestTimeRegisters) -> Any:
    """A forward pre-hook of the MLP's second layer: what it reads is moved first."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return shift(args[0]), *args[1:]

    return hook
