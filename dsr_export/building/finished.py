"""What all stages of one build have made: what goes into the bundle, and what the report tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr_export.bundle.reader import ENGINE_MODEL, MODEL, RUNTIME_MODEL, STEP
from dsr_export.config import BatchRange
from dsr_export.stages.audit import Audited
from dsr_export.stages.calibrate import Calibrated
from dsr_export.stages.engine import Engine
from dsr_export.stages.lower import Lowered
from dsr_export.stages.norms import Norms
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.parity import Judged
from dsr_export.stages.quantize import Quantized
from dsr_export.stages.reference import Reference
from dsr_export.stages.taps import SiteTaps
from dsr_export.stages.trace import Traced
from dsr_export.stages.type_graph import Typed
from graphs.forms import FormName


def placed(typed: Mapping[FormName, Typed]) -> dict[str, Typed]:
    """Graphs by their place in a bundle, or in the folder of its steps."""
    places = dict(zip((MODEL, ENGINE_MODEL), typed.values(), strict=False))
    own = places[MODEL].own
    return places if own is None else {MODEL: places[MODEL], RUNTIME_MODEL: own, **places}


@dataclass(frozen=True, kw_only=True)
class FusedSteps:
    """What holds a whole step of the sampler: graphs by form, engines by target. `images` are the batches they take."""

    typed: Mapping[FormName, Typed]
    engines: Mapping[str, Engine]
    images: BatchRange

    @property
    def graphs(self) -> Mapping[str, Typed]:
        """By their place in the bundle."""
        return {f"{STEP}{path}": each for path, each in placed(self.typed).items()}


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`typed` by form, `model.onnx` first; `engines` by target; `steps` where a whole sampler step was asked for.

    `parity` has what was found of `model.onnx`, then of other graphs and of engines, each behind the `target` of its
    rows: its place in the bundle, None where the runtime tells. The two of INT8 are None in another precision.
    """

    traced: Traced
    reference: Reference
    lowered: Lowered
    optimized: Optimized
    calibrated: Calibrated | None
    audited: Audited
    norms: Norms
    quantized: Quantized | None
    typed: Mapping[FormName, Typed]
    engines: Mapping[str, Engine]
    steps: FusedSteps | None
    taps: SiteTaps
    parity: tuple[tuple[str | None, Judged], ...]

    @property
    def graphs(self) -> Mapping[str, Typed]:
        """The typed graphs by their place in the bundle; engines are made of the last."""
        return placed(self.typed)

    @property
    def shipped(self) -> Typed:
        """What is `model.onnx`."""
        return self.graphs[MODEL]
