"""One model under each way of treating its outlier tokens: the table that the method is judged by.

Sites are where the model's own declaration puts them, or a `dsr.toml`; each method changes what happens there. What is
drawn is the FP32 PyTorch module, so that the method is judged and not an export of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.evaluation.drawers import torch_drawer
from dsr_export.evaluation.evaluate import Asked, check_asked, drawn_key, opened_networks
from dsr_export.evaluation.joined_parts import CANDIDATE, REFERENCE
from dsr_export.evaluation.measured import Measured, Measuring, measure, read_part
from dsr_export.evaluation.method_engines import method_costs
from dsr_export.evaluation.outliers import OutlierRatio
from dsr_export.evaluation.parts import parts_of
from dsr_export.evaluation.references import subject_digest
from dsr_export.evaluation.summary import Line, summarised
from dsr_export.evaluation.treatments import METHODS, NONE, treated
from dsr_export.families import FamilyRequest, entry, load
from dsr_export.families.declared import with_declaration
from dsr_export.progress import Reporter
from dsr_export.storage.cache import StageCache


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """Figures of one method; differences are to `none`. `outliers` is a share of all tokens (`OutlierRatio`).

    `engine` is what it costs (`method_costs`), None where no device was named.
    """

    method: str
    lines: tuple[Line, ...]
    parts: tuple[Measured, ...]
    outliers: float | None
    engine: Mapping[str, Any] | None = None


def compare_methods(
    request: ModelRequest,
    asked: Asked,
    cache: StageCache,
    shown: Reporter,
    *,
    decoder: Bundle | None = None,
    devices: Sequence[str] = (),
) -> list[MethodResult]:
    """A result for each method that the model's declaration has something for, in the order of `METHODS`.

    With the names of `devices` an engine is built for each method, which no device has to be there for.

    Raises:
        ExportError: the model declares no sites, is not registered or no denoiser, makes latents and there is no
            decoder; and whatever `evaluate` refuses.
    """
    check_asked(asked, paired=False)
    models = treated(declared_model(request))
    panel, real = opened_networks(asked, request.model, cache, shown)
    costs = method_costs(models, devices, shown)
    measured: dict[str, tuple[Measured, ...]] = {}
    ratio, ratios = OutlierRatio(shown, asked.drawn.seed), dict[str, float | None]()
    for method, model in models.items():
        shown.note(f"{method}: {METHODS[method]}")
        subject = load(model)
        with ExitStack() as opened:
            drawer = opened.enter_context(torch_drawer(subject, asked.drawn, decoder=decoder, runtime=asked.runtime))
            key = {"subject": subject_digest(subject), **_decoder_key(decoder), **drawn_key(asked, panel)}
            measuring = Measuring(
                candidate=drawer, reference=None, drawn=asked.drawn, classes=subject.num_classes, panel=panel, key=key
            )
            stages = measure(measuring, parts_of(asked.count), cache, shown)
        measured[method] = tuple(read_part(stage) for stage in stages)
        ratios[method] = ratio(subject)
    base = measured[NONE]
    return [
        MethodResult(
            method=method,
            parts=parts,
            outliers=ratios[method],
            engine=costs.get(method),
            lines=tuple(summarised(each, _against(parts, base), real, paired=True) for each in asked.metrics),
        )
        for method, parts in measured.items()
    ]


def declared_model(request: ModelRequest) -> FamilyRequest:
    """The model with all that its `dsr.toml` says: what a method changes is what happens at the sites, and no more.

    Raises ExportError for a name or a file that do not exist, or do not fit.
    """
    return with_declaration(FamilyRequest.of(request), entry(request.model).stage)


def _against(parts: tuple[Measured, ...], base: tuple[Measured, ...]) -> list[Measured]:
    """Parts whose reference is what another method measured of the same noise."""
    made: list[Measured] = []
    for part, other in zip(parts, base, strict=True):
        reference = {
            f"{REFERENCE}{name.removeprefix(CANDIDATE)}": value
            for name, value in other.items()
            if name.startswith(CANDIDATE)
        }
        made.append({**part, **reference})
    return made


def _decoder_key(decoder: Bundle | None) -> dict[str, Any]:
    return {} if decoder is None else {"decoder": decoder.manifest.digest}
