"""Whether two sides draw the same: the same noise, classes or prompts, sampled in the same way.

What they draw is compared picture by picture. Weights and precision may differ; those are judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dsr_export.bundle.pipeline_record import SCHEDULER
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.subject import Subject
from graphs.foreign.small_files import read_json_object

_HINT = "compare bundles of one model, with the same --steps and --guidance"


def check_comparable(bundle: Bundle, reference: Bundle | Subject) -> None:
    """Raises ExportError naming the first difference. Samplers of denoisers are compared where they are opened."""
    for (what, own), (_, other) in zip(_facts(bundle), _facts(reference), strict=False):
        if own != other:
            raise ExportError(f"the reference has {what} {other}, and the bundle {own}", hint=_HINT)


def _facts(of: Bundle | Subject) -> Iterator[tuple[str, Any]]:
    if isinstance(of, Subject):
        yield "the pipeline", "none"
        yield "inputs of", list(of.inputs[0].with_batch(1)[1:])
        yield "classes:", of.num_classes
        return
    record = of.manifest.pipeline
    yield "the pipeline", "none" if record is None else record.class_name
    yield "inputs of", list(of.manifest.input_specs()[0].with_batch(1)[1:])
    yield "classes:", int(of.manifest.model["num_classes"])
    if record is not None:
        yield "the VAE", record.vae
        yield "the settings", dict(record.settings)
        yield "text encoders", {role: text.tokens for role, text in record.text.items()}
        scheduler = read_json_object(of.file(SCHEDULER), hint="build the bundle again")
        yield "a scheduler", {name: value for name, value in sorted(scheduler.items()) if not name.startswith("_")}
