"""`type`: the precision written into the graph, in the form of the targets that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dsr_export.progress import Bar
from dsr_export.stages.audit import Audited
from dsr_export.stages.calibrate import Calibrated
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.quantize import Quantized
from dsr_export.stages.stage import FACTS, MODEL, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import TypedModel
from graphs.files import load_model
from graphs.forms import FORMS, FormName, take_form
from graphs.mixed_precision.islands import PrecisionPolicy, sinusoidal_modules
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision

TYPED = "typed.onnx"


@dataclass(frozen=True)
class Typed(Result):
    """What ships, and what engines are built from; its facts are the report's `typing`."""

    precision: Precision

    @property
    def model(self) -> TypedModel:
        return TypedModel(path=self.folder / MODEL, precision=self.precision)


@dataclass(frozen=True, kw_only=True)
class TypeGraph(Stage[Typed]):
    """FP32 stays where the card or the audit says so."""

    name: ClassVar[str] = "type"
    source: Optimized | Calibrated | Quantized
    card: SubjectCard
    audited: Audited
    precision: Precision
    form: FormName

    def work(self, folder: Path, bar: Bar) -> None:
        model, audit = self.source.model, self.audited.audit
        wide = audit.wide_tensors(self.precision)
        policy = PrecisionPolicy(
            fp32_modules=self._fp32_modules(),
            wide_tensors=wide,
            maxima=audit.maxima,
            narrow_products=FORMS[self.form].narrow_products,
        )
        typed, report = assign_precision(model, folder / TYPED, self.precision, policy)
        rewrites = take_form(typed, folder / MODEL, self.form)
        for path in folder.glob(f"{TYPED}*"):
            path.unlink()
        named = {each.name: each.as_dict() for each in rewrites}
        write_json(folder / FACTS, report.as_dict() | {"form": self.form, "rewrites": named})

    def result(self, made: CachedStage) -> Typed:
        return Typed(made, self.precision)

    def _fp32_modules(self) -> tuple[str, ...]:
        """FP16 embedders and final layers cost less accuracy than what lies between them, and half the bytes."""
        model = load_model(self.source.model.path, weights=False)
        return (*self.card.fp32_modules, *sinusoidal_modules(model, self.card.outer_modules))
