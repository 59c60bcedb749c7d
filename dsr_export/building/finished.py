"""What all stages of one build have made: what goes into the bundle, and what the report tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr_export.bundle.reader import ENGINE_MODEL, MODEL
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


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`typed` by form, `model.onnx` first; `engines` by target; `parity`: of the typed graphs, in their order, and then
    of engines. The two of INT8 are None in another precision."""

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
    taps: SiteTaps
    parity: tuple[Judged, ...]

    @property
    def graphs(self) -> Mapping[str, Typed]:
        """The typed graphs by their place in the bundle; engines are made of the last."""
        return dict(zip((MODEL, ENGINE_MODEL), self.typed.values(), strict=False))

    @property
    def shipped(self) -> Typed:
        """What is `model.onnx`."""
        return self.graphs[MODEL]
