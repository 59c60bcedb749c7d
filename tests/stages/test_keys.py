"""A stage is known by all of its fields: whichever is changed, the stage runs again."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import dsr_export.stages
from dsr_export import pipeline
from dsr_export.building.build import Build
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.declarations.calibration_part import RECORD
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.declarations.share import Share
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.model_at_hand import ModelAtHand
from dsr_export.stages.parity import Comparison
from dsr_export.stages.stage import Result, Stage, stage_key
from dsr_export.stages.trace import Traced
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec
from graphs.targets import target
from tests.pipeline_parts import denoiser_config

SPEC = TensorSpec(name="x", dtype="float32", shape=("batch", 3))
SAMPLER = SamplerSpec(num_steps=3, null_label=1)
CARD = SubjectCard(
    name="net",
    family="own",
    inputs=(SPEC,),
    outputs=(SPEC,),
    dsr={"denoiser": {"kind": "diffusion", "registers": 9}},
    sites={"ReplaceOutliers": 7},
    sampler=SAMPLER,
    num_classes=77,
    parameters=5,
    config={"width": 1},
    provenance={"random_seed": 77},
    fp32_modules=("head",),
    outer_modules=("tail",),
    batch_limits=(1, 77),
    batch_reason="model.py:7",
)


GRAPHS = {"parity", "parity-runtime-graph", "parity-cuda", "parity-engine"}
PARITY = {*GRAPHS, "parity-step", "parity-step-engine"}
INT8 = Int8Options(data="random:0")
CONFIG_CHANGES: dict[str, tuple[Any, set[str]]] = {
    "random_weights": (1, {"trace", "reference", "calibrate"}),
    "registers": (3, {"trace", "reference", "calibrate"}),
    "precision": ("fp16", {"type", *GRAPHS}),
    "batch": (BatchRange(1, 2, 3), {"reference", "engine", "taps", "parity"}),
    "trajectory_steps": (4, {"reference", "calibrate", "audit", *GRAPHS}),
}
INT8_CHANGES: dict[str, tuple[Any, set[str]]] = {
    "method": ("minmax", {"calibrate"}),
    "data": ("random:1", {"calibrate"}),
    "images": (5, {"calibrate"}),
    "steps": (5, {"calibrate"}),
    "tables": ((Path(__file__),), {"calibrate"}),
    "share": (Share(1, 2), {"calibrate"}),
    "budget_db": (50.0, {"quantize", *PARITY}),
}


@dataclasses.dataclass
class Named:
    """A source that is known by one word."""

    name: str

    def key(self) -> dict[str, Any]:
        return {"word": self.name}


@dataclasses.dataclass
class Known(Named):
    """A value that says itself what it is known by."""

    def stage_key(self) -> str:
        return self.name


def made(word: str) -> CachedStage:
    return CachedStage(Path("somewhere"), True, 0.0, f"digest of {word}", {})


def all_stages() -> list[type[Stage[Any]]]:
    for module in pkgutil.iter_modules(dsr_export.stages.__path__):
        importlib.import_module(f"dsr_export.stages.{module.name}")
    return sorted(Stage.__subclasses__(), key=lambda each: each.name)


def example(of: type[Stage[Any]]) -> Stage[Any]:
    """One with a value in every field."""
    known = {
        "model": ModelAtHand(Named("net")),  # type: ignore[arg-type]
        "card": CARD,
        "batch": BatchRange(1, 2, 4),
        "sampler": SAMPLER,
        "options": Int8Options(data="random:0"),
        "precision": "fp16",
        "form": "engine",
        "aim_db": 30.0,
        "held_db": 20.0,
        "beyond_db": 6.0,
        "for_engines": True,
        "target": target("rtx"),
        "on": {"system": "Linux", "gpu": "8.9"},
        "images": BatchRange(1, 1, 2),
        "walk": Known("walk"),
    }
    results = {name: Result(made(name)) for name in ("source", "reference", "audited", "taps")}
    held = Comparison(card=CARD, reference=results["reference"], sampler=SAMPLER, tolerance=TOLERANCES["fp16"])  # type: ignore[arg-type]
    values = {**known, **results, "comparison": held}
    return of(**{field.name: values[field.name] for field in dataclasses.fields(of)})  # type: ignore[arg-type]


def others(value: Any) -> Iterator[Any]:
    """Values that differ from `value` in one place each: every field of every dataclass in it, every item."""
    if isinstance(value, ModelAtHand):
        yield ModelAtHand(Named("another"))  # type: ignore[arg-type]
    elif isinstance(value, Result):
        yield dataclasses.replace(value, made=made("another"))
    elif isinstance(value, Int8Options):
        for change in (
            {"method": "minmax"},
            {"data": "random:1"},
            {"images": 5},
            {"steps": 5},
            {"tables": (Path(__file__),)},
        ):
            yield dataclasses.replace(value, **change)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for other in others(getattr(value, field.name)):
                changed = object.__new__(type(value))  # past its checks: whatever stands there must count
                changed.__dict__.update({**vars(value), field.name: other})
                yield changed
    elif isinstance(value, Mapping):
        yield MappingProxyType({**value, "one more": 1})
        for name, each in value.items():
            yield from ({**value, name: other} for other in others(each))
    elif isinstance(value, tuple):
        yield (*value, "one more")
        for i, each in enumerate(value):
            yield from ((*value[:i], other, *value[i + 1 :]) for other in others(each))
    else:
        yield 77 if value is None else f"{value}-other" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("of", all_stages(), ids=lambda of: of.name)
def test_a_stage_is_known_by_every_value_in_it(of: type[Stage[Any]]) -> None:
    stage, build = example(of), Build(ExportConfig(), Silent())
    known, seen = build.identity(stage), 0
    for field in dataclasses.fields(of):  # type: ignore[arg-type]
        for other in others(getattr(stage, field.name)):
            changed_stage = dataclasses.replace(stage, **{field.name: other})  # type: ignore[type-var]
            assert build.identity(changed_stage) != known, field.name
            seen += 1
    assert seen >= len(dataclasses.fields(of))  # type: ignore[arg-type]


def test_there_is_one_file_a_stage_and_one_folder_in_the_cache() -> None:
    names = [of.name for of in all_stages()]
    assert len(names) == len(set(names)) == 18
    for of in all_stages():
        assert dataclasses.is_dataclass(of)
        assert of.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_path_is_no_key() -> None:
    with pytest.raises(TypeError, match="PosixPath can't be part"):
        stage_key({"file": Path("x")})


# -- what a user asks for reaches the stages that read it -------------------------------------------------------------

AFTER_TRACE = {"calibrate", "audit", "norms", "quantize", "type", "engine", "taps", *PARITY}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExportConfig:
    out = tmp_path_factory.mktemp("planned") / "b.dsr"
    return dataclasses.replace(denoiser_config(out), precision="int8", int8=INT8, fuse_step=True)


@pytest.fixture(scope="module")
def done(config: ExportConfig, stage_cache: Path) -> dict[str, Result]:
    """What the stages of a finished build have made."""
    found: dict[str, Result] = {}
    real = Build.run

    def run(build: Build, stage: Stage[Any]) -> Any:
        found[stage.name] = real(build, stage)
        return found[stage.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Build, "run", run)
        pipeline.export(config)
    return found


def keys(config: ExportConfig, done: Mapping[str, Result], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keys of all stages of a build, which runs none."""
    found: dict[str, Any] = {}

    def run(build: Build, stage: Stage[Any]) -> Any:
        found[stage.name] = build.identity(stage)
        return done.get(stage.name, stage.result(made(stage.name)))

    with monkeypatch.context() as patch:
        patch.setattr(Build, "run", run)
        patch.setattr(pipeline, "_check_typed", lambda *_: None)  # the graph at hand is of another precision
        build = Build(config, Silent())
        build.__dict__ |= {"targets": (target("rtx"),), "runnable_targets": (target("rtx"),), "checks_cuda": True}
        pipeline._staged(build)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after.get(name)}


def test_every_stage_is_part_of_a_build(
    done: dict[str, Result], config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(keys(config, done, monkeypatch)) == {of.name for of in all_stages()}


def test_the_card_counts_in_every_stage_that_is_given_it(
    done: dict[str, Result], config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(config, done, monkeypatch)
    other = Traced(done["trace"].made)
    other.__dict__["card"] = dataclasses.replace(Traced(done["trace"].made).card, fp32_modules=("head",))
    assert changed(before, keys(config, {**done, "trace": other}, monkeypatch)) == AFTER_TRACE


@pytest.mark.parametrize(("name", "change"), CONFIG_CHANGES.items())
def test_every_option_counts_where_it_is_read(
    name: str,
    change: tuple[Any, set[str]],
    done: dict[str, Result],
    config: ExportConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value, stages = change
    own: dict[str, Any] = {name: value} | ({"int8": Int8Options()} if name == "precision" else {})
    before = keys(config, done, monkeypatch)
    assert changed(before, keys(dataclasses.replace(config, **own), done, monkeypatch)) >= stages


def test_every_option_of_int8_counts_where_it_is_read(
    done: dict[str, Result], config: ExportConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / RECORD).write_text("{}")
    changes = {**INT8_CHANGES, "parts": ((tmp_path,), {"calibrate"})}
    assert set(changes) == {field.name for field in dataclasses.fields(Int8Options)} - {"rank"}  # no option of INT8
    assert dataclasses.replace(INT8, rank=16).stage_key() != INT8.stage_key()
    before = keys(config, done, monkeypatch)
    for name, (value, stages) in changes.items():
        other = dataclasses.replace(config, int8=dataclasses.replace(INT8, **{name: value}))
        assert changed(before, keys(other, done, monkeypatch)) == stages, name


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
    [pytest.param("fp16", "FLOAT16", "FLOAT", marks=pytest.mark.slow), ("int8", "INT8", "FLOAT")],
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
        model = onnx.load(export(config).path / "model.onnx")
        made[modules] = {w.data_type for w in model.graph.initializer if list(w.dims) == [64, 64]}
    assert made == {
        "[]": {onnx.TensorProto.DataType.Value(narrow)},
        '["inner"]': {onnx.TensorProto.DataType.Value(kept)},
    }
