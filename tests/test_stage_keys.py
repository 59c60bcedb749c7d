"""What a stage's job reads is in the stage's key: each field is changed, and each stage that reads it runs again."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dsr_export import pipeline
from dsr_export.build import Build, _plain
from dsr_export.cache import CachedStage
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.int8.options import Int8Options
from dsr_export.progress import Silent
from dsr_export.sampling import SamplerSpec
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec
from graphs.targets import target
from tests.pipeline_parts import denoiser_config

Keys = dict[str, Any]
Produce = Callable[..., None]
AFTER_TRACE = ("calibrate", "audit", "norms", "quantize", "type", "engine", "taps", "parity", "parity-engine")
SPEC = TensorSpec(name="other", dtype="float32", shape=("batch", 3))
CARD_CHANGES: dict[str, Any] = {
    "name": "other",
    "family": "other",
    "inputs": (SPEC,),
    "outputs": (SPEC,),
    "dsr": {"encoder": {"kind": "none"}, "denoiser": {"kind": "diffusion", "registers": 9}},
    "sites": {"ReplaceOutliers": 7},
    "sampler": SamplerSpec(num_steps=3, null_label=1),
    "num_classes": 77,
    "parameters": 200_000_000,
    "config": {"other": 1},
    "provenance": {"random_seed": 77},
    "fp32_modules": ("head",),
    "batch_limits": (1, 77),
    "batch_reason": "model.py:7",
}
INT8 = Int8Options(data="random:0")
CONFIG_CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "random_weights": (1, ("trace", "reference", "calibrate")),
    "registers": (3, ("trace", "reference", "calibrate")),
    "precision": ("fp16", ("type", "parity", "parity-engine")),
    "batch": (BatchRange(1, 2, 3), ("reference", "engine", "taps", "parity", "parity-engine")),
    "trajectory_steps": (4, ("reference", "calibrate", "audit", "parity", "parity-engine")),
}
INT8_CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "method": ("minmax", ("calibrate",)),
    "data": ("random:1", ("calibrate",)),
    "images": (5, ("calibrate",)),
    "steps": (5, ("calibrate",)),
    "tables": ((Path(__file__),), ("calibrate",)),
    "budget_db": (50.0, ("quantize", "parity", "parity-engine")),
}
READERS: dict[str, tuple[str, ...]] = {  # stage -> the stages whose jobs read its folder
    "trace": ("lower",),
    "lower": ("optimize",),
    "optimize": ("calibrate", "norms", "taps"),
    "reference": ("audit", "norms", "quantize", "taps", "parity", "parity-engine"),
    "calibrate": ("audit", "quantize"),
    "audit": ("type",),
    "quantize": ("type",),
    "type": ("engine", "parity"),
    "engine": ("parity-engine",),
    "taps": ("parity", "parity-engine"),
}


class _Planned(Exception):
    """All stages are known."""


@dataclasses.dataclass
class _Plan:
    """Runs a build's stages once, and then asks for their keys alone."""

    done: Mapping[str, CachedStage]
    monkeypatch: pytest.MonkeyPatch

    def keys(
        self, config: ExportConfig, card: Mapping[str, Any] | None = None, digests: Mapping[str, str] | None = None
    ) -> tuple[Keys, dict[str, Produce]]:
        keys, jobs = {}, {}

        def stage(_: Build, name: str, key: Mapping[str, Any], produce: Produce) -> CachedStage:
            keys[name], jobs[name] = json.loads(json.dumps(key, default=_plain)), produce
            known = self.done.get(name, CachedStage(Path(name), True, 0.0, f"digest of {name}", {}))
            return dataclasses.replace(known, digest=(digests or {}).get(name, known.digest))

        def changed(path: Path, real: Callable[[Path], SubjectCard] = SubjectCard.load) -> SubjectCard:
            return dataclasses.replace(real(path), **(card or {}))

        def planned(*_: Any) -> None:
            raise _Planned

        with self.monkeypatch.context() as patch:
            patch.setattr(Build, "stage", stage)
            patch.setattr(SubjectCard, "load", changed)
            patch.setattr(pipeline, "bundle_contents", planned)
            patch.setattr(pipeline, "require_types", lambda *_: None)  # the graph at hand is of another precision
            build = Build(config, Silent())
            build.__dict__ |= {"targets": (target("rtx"),), "runnable_targets": (target("rtx"),)}
            with pytest.raises(_Planned):
                pipeline._export(build)
        return keys, jobs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExportConfig:
    out = tmp_path_factory.mktemp("planned") / "b.dsr"
    return dataclasses.replace(denoiser_config(out), precision="int8", int8=INT8)


@pytest.fixture(scope="module")
def done(config: ExportConfig, stage_cache: Path) -> dict[str, CachedStage]:
    """The folders of a finished build."""
    found: dict[str, CachedStage] = {}
    real = Build.stage

    def stage(build: Build, name: str, key: Mapping[str, Any], produce: Produce) -> CachedStage:
        found[name] = real(build, name, key, produce)
        return found[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Build, "stage", stage)
        pipeline.export(config)
    return found


@pytest.fixture
def plan(done: dict[str, CachedStage], monkeypatch: pytest.MonkeyPatch) -> _Plan:
    return _Plan(done, monkeypatch)


def _changed(before: Keys, after: Keys) -> set[str]:
    return {name for name in before if before[name] != after.get(name)}


def test_every_field_of_the_card_counts_in_every_stage_that_is_given_it(plan: _Plan, config: ExportConfig) -> None:
    assert set(CARD_CHANGES) == {field.name for field in dataclasses.fields(SubjectCard)}
    before, _ = plan.keys(config)
    assert set(before) == {"trace", "reference", "lower", "optimize", *AFTER_TRACE}
    for name, value in CARD_CHANGES.items():
        assert _changed(before, plan.keys(config, {name: value})[0]) >= set(AFTER_TRACE), name


@pytest.mark.parametrize(("name", "change"), CONFIG_CHANGES.items())
def test_every_option_counts_where_it_is_read(
    name: str, change: tuple[Any, tuple[str, ...]], plan: _Plan, config: ExportConfig
) -> None:
    value, stages = change
    own: dict[str, Any] = {name: value} | ({"int8": Int8Options()} if name == "precision" else {})
    before, after = plan.keys(config)[0], plan.keys(dataclasses.replace(config, **own))[0]
    assert _changed(before, after) >= set(stages)


def test_every_option_of_int8_counts_where_it_is_read(plan: _Plan, config: ExportConfig) -> None:
    assert set(INT8_CHANGES) == {field.name for field in dataclasses.fields(Int8Options)}
    before, _ = plan.keys(config)
    for name, (value, stages) in INT8_CHANGES.items():
        changed = dataclasses.replace(config, int8=dataclasses.replace(INT8, **{name: value}))
        assert _changed(before, plan.keys(changed)[0]) >= set(stages), name


def test_what_earlier_stages_made_counts_in_those_that_read_it(plan: _Plan, config: ExportConfig) -> None:
    before, _ = plan.keys(config)
    assert set(READERS) == set(before) - {"norms", "parity", "parity-engine"}  # the report alone reads these
    for name, stages in READERS.items():
        assert _changed(before, plan.keys(config, digests={name: "other"})[0]) >= set(stages), name


def test_no_job_holds_a_value_that_its_key_lacks(plan: _Plan, config: ExportConfig) -> None:
    """For stages still to come: whatever specification a job carries is found in its key, word by word."""
    keys, jobs = plan.keys(config)
    for name, job in jobs.items():
        held = [value for value in _held(job) if isinstance(value, SubjectCard | SamplerSpec | BatchRange)]
        text = json.dumps(keys[name], sort_keys=True)
        for value in held:
            assert json.dumps(dataclasses.asdict(value), sort_keys=True) in text, (name, type(value).__name__)


def _held(job: Any) -> Iterator[Any]:
    """What a job was bound to: arguments, the fields of its object, and what its function has taken from around it."""
    if isinstance(job, functools.partial):
        yield from (*job.args, *job.keywords.values())
        yield from _held(job.func)
    for cell in getattr(job, "__closure__", None) or ():
        yield cell.cell_contents
    yield from vars(getattr(job, "__self__", None) or object).values() if hasattr(job, "__self__") else ()


# -- the fault that showed it: two models of one graph --------------------------------------------------------------

OWN = """
import json
from pathlib import Path

import torch
from torch import nn

from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 64), nn.Linear(48, 32)
        self.inner, self.other = nn.Linear(64, 64), nn.Linear(64, 48)

    def forward(self, x):
        inner = torch.relu(self.inner(torch.relu(self.first(x))))
        return self.last(torch.relu(self.other(inner)))

def build():
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 16, 32))
    modules = tuple(json.loads(Path("fp32.json").read_text()))
    out = TensorSpec(name="out", dtype="float32", shape=("batch", 16, 32))
    return Subject(name="own", family="own", module=Net(), inputs=(spec,), outputs=(out,), dsr=DsrSpec(),
                   fp32_modules=modules)
"""


@pytest.mark.parametrize(
    ("precision", "narrow", "kept"),
    [pytest.param("fp16", "FLOAT16", "FLOAT", marks=pytest.mark.slow), ("int8", "INT8", "FLOAT16")],
)
def test_a_module_that_is_kept_wide_is_so_after_a_build_without_it(
    precision: str, narrow: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.chdir(tmp_path)
    (tmp_path / f"own_inner_{precision}.py").write_text(OWN)
    made: dict[str, set[int]] = {}
    for modules in ("[]", '["inner"]'):
        (tmp_path / "fp32.json").write_text(modules)
        config = ExportConfig(
            model=f"own_inner_{precision}:build",
            precision=precision,  # type: ignore[arg-type]
            targets=("onnxruntime",),
            batch=BatchRange(1, 1, 2),
            out=tmp_path / f"{len(modules)}.dsr",
            int8=Int8Options(data="random:0") if precision == "int8" else Int8Options(),
        )
        model = onnx.load(pipeline.export(config).path / "model.onnx")
        made[modules] = {w.data_type for w in model.graph.initializer if list(w.dims) == [64, 64]}
    assert made == {
        "[]": {onnx.TensorProto.DataType.Value(narrow)},
        '["inner"]': {onnx.TensorProto.DataType.Value(kept)},
    }
