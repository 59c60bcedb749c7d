"""`type`: the precision written into the graph, in the form of the targets that it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from graphs.files import RUNTIME_GRAPH
from graphs.forms import FORMS, FormName, take_form
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision

TYPED = "typed.onnx"


@dataclass(frozen=True)
class Typed(Result):
    """What ships, and what engines are built from; its facts are the report's `typing`.

    `name` is the file's: `model.onnx`, or of what ONNX Runtime runs in its place.
    """

    precision: Precision
    form: FormName
    name: str = MODEL

    @property
    def model(self) -> TypedModel:
        return TypedModel(path=self.folder / self.name, precision=self.precision)

    @property
    def own(self) -> Typed | None:
        """What ONNX Runtime runs in the place of this graph, over the same weights; None where it runs this one."""
        return replace(self, name=RUNTIME_GRAPH) if RUNTIME_GRAPH in self.made.files else None


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
        policy = replace(
            declared_policy(self.card, self.form),
            wide_tensors=audit.wide_tensors(self.precision),
            maxima=audit.maxima,
        )
        typed, report = assign_precision(model, folder / TYPED, self.precision, policy)
        rewrites = take_form(typed, folder / MODEL, self.form)
        for path in folder.glob(f"{TYPED}*"):
            path.unlink()
        named = {each.name: each.as_dict() for each in rewrites}
        write_json(folder / FACTS, report.as_dict() | {"form": self.form, "rewrites": named})

    def result(self, made: CachedStage) -> Typed:
        return Typed(made, self.precision, self.form)


def declared_policy(card: SubjectCard, form: FormName) -> PrecisionPolicy:
    """What the card and the form say; what was measured of the graph is still to come.

    Embedders and final layers are of the low type like everything else: they cost less accuracy than what lies between
    them. Of an embedder of timesteps the way to its sines stays FP32, and the sines (`graphs.mixed_precision.angles`).
    """
    return PrecisionPolicy(fp32_modules=card.fp32_modules, narrow_products=FORMS[form].narrow_products)
