"""Diagnosis of an image encoder: which tokens are outliers, and which neurons to move onto a test-time register.

Recursive: each round runs on the encoder that the tables found so far stabilise, and their union is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dsr_export.diagnosis.discovery import DiscoverySettings, Scan, absolute_layer, scan
from dsr_export.diagnosis.models.encoder import EncoderTokens
from dsr_export.diagnosis.models.tokens import FoundBlocks
from dsr_export.diagnosis.neurons import Neuron, Table, merged, table_of
from dsr_export.diagnosis.threads import fitting_threads
from dsr_export.errors import ExportError
from dsr_export.images.reading import Images
from dsr_export.progress import Reporter
from dsr_export.subject import Subject

DEFAULTS: Mapping[str, DiscoverySettings] = {
    "siglip": DiscoverySettings(detect_layer=-1, threshold=30.0, highest_layer=5, top_k=10),  # CLIP B/16
    "siglip2": DiscoverySettings(detect_layer=-1, threshold=30.0, highest_layer=5, top_k=10),
    "clip": DiscoverySettings(detect_layer=-1, threshold=30.0, highest_layer=5, top_k=10),
    "dinov2": DiscoverySettings(detect_layer=-2, threshold=150.0, highest_layer=17, top_k=50),  # DINOv2 L/14
    "dinov2-with-registers": DiscoverySettings(detect_layer=-2, threshold=150.0, highest_layer=17, top_k=50),
}
"""Values that arXiv 2506.08010 used for the models named beside them."""


@dataclass(frozen=True)
class Round:
    """One round of discovery: the neurons it found, and the pass that found them."""

    neurons: tuple[Neuron, ...]
    scan: Scan


@dataclass(frozen=True, kw_only=True)
class EncoderDiagnosis:
    """What was found. `after` is the pass with the whole `table` applied; None where no neuron was found.

    `declared` is the pass with the registers that the model came with beside its checkpoint's (`--dsr`), if it has any.
    """

    subject: Subject
    settings: DiscoverySettings
    depth: int
    rounds: tuple[Round, ...]
    table: Table
    after: Scan | None
    declared: Scan | None = None

    @property
    def before(self) -> Scan:
        return self.rounds[0].scan

    @property
    def detect_layer(self) -> int:
        """Counted from 0."""
        return absolute_layer(self.settings.detect_layer, self.depth)


def settings_for(
    family: str,
    *,
    detect_layer: int | None = None,
    threshold: float | None = None,
    highest_layer: int | None = None,
    top_k: int | None = None,
    rounds: int = 1,
) -> DiscoverySettings:
    """The family's settings, with what is given in their place. Raises ExportError where one is missing."""
    base = DEFAULTS.get(family)
    if base is None and (threshold is None or highest_layer is None):
        raise ExportError(
            f"nothing is known of the outliers of '{family}' models",
            hint="give --threshold (an L2 norm) and --highest-layer; -1 and 10 are taken for the other two",
        )
    base = base or DiscoverySettings(detect_layer=-1, threshold=0.0, highest_layer=0, top_k=10)
    return replace(
        base,
        detect_layer=base.detect_layer if detect_layer is None else detect_layer,
        threshold=base.threshold if threshold is None else threshold,
        highest_layer=base.highest_layer if highest_layer is None else highest_layer,
        top_k=base.top_k if top_k is None else top_k,
        rounds=rounds,
    )


def diagnose_encoder(
    subject: Subject,
    model: EncoderTokens | FoundBlocks,
    images: Images,
    settings: DiscoverySettings,
    reporter: Reporter,
) -> EncoderDiagnosis:
    """Each round is one pass over the images; more show the effect of what was found, and of what was declared.

    The model is left as it was.
    """
    rounds: list[Round] = []
    table: Table = {}
    after: Scan | None = None
    for number in range(1, settings.rounds + 1):
        found = _pass(subject, model, images, settings, table, reporter, f"discovery {number}")
        neurons = found.scores.best(settings.top_k, highest_layer=settings.highest_layer)
        rounds.append(Round(neurons, found))
        if not neurons:
            after = found if table else None
            break
        table = merged(table, table_of(neurons))
    if table and after is None and isinstance(model, EncoderTokens):
        after = _pass(subject, model, images, settings, table, reporter, "with test-time registers")
    own = None
    if subject.dsr.encoder.kind in ("appended", "test-time"):
        own = _pass(subject, model, images, settings, None, reporter, "with the declared registers")
    return EncoderDiagnosis(
        subject=subject,
        settings=settings,
        depth=model.depth,
        rounds=tuple(rounds),
        table=table,
        after=after,
        declared=own,
    )


def _pass(
    subject: Subject,
    model: EncoderTokens | FoundBlocks,
    images: Images,
    settings: DiscoverySettings,
    table: Table | None,
    reporter: Reporter,
    name: str,
) -> Scan:
    """Without a table the model is as it came."""
    with reporter.stage(name) as bar, fitting_threads(subject.module), _stabilised(model, table):
        return scan(model, subject.module, images, settings, seen=lambda done: bar(done, len(images)))


@contextmanager
def _stabilised(model: EncoderTokens | FoundBlocks, table: Table | None) -> Iterator[None]:
    if table is None:
        yield
    elif isinstance(model, EncoderTokens):
        with model.with_neurons(table):
            yield
    elif table:
        raise ExportError("test-time registers can't be put into this module", hint="use --rounds 1")
    else:
        yield
