"""`--fuse-step`: graphs and engines in which one call is one step of the sampler, held to all that models are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.backends.cuda.device_tensor import DeviceTensor
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import BatchRange, ExportConfig
from dsr_export.drawing.drawn import draw
from dsr_export.errors import ExportError
from dsr_export.parity.golden.vectors import image_batch
from dsr_export.pipeline import export
from dsr_export.recompiling.recompile import CompileRequest, recompile
from dsr_export.sampling import SamplerSpec
from dsr_export.stages.reference import MakeReference
from tests.backends.cuda_stand_in import stand_in
from tests.conftest import Cli
from tests.pipeline_parts import decoder_config, denoiser_config, rewritten

STEP, OWN_STEP = "step/model.onnx", "step/onnxruntime.onnx"


@pytest.fixture(scope="module")
def fused_bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    """The tiny denoiser, which has no guidance."""
    out = tmp_path_factory.mktemp("bundles") / "fused.dsr"
    return export(dataclasses.replace(denoiser_config(out), fuse_step=True)).path


@pytest.fixture(scope="module")
def guided_bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    """The packaged digits, which are guided: every image is two rows."""
    out, batch = tmp_path_factory.mktemp("bundles") / "guided.dsr", BatchRange(1, 2, 4)
    asked = ExportConfig(targets=("onnxruntime",), batch=batch, trajectory_steps=3, out=out, fuse_step=True)
    return export(asked).path


def _drawn(bundle: Path, **asked: Any) -> np.ndarray:
    given: dict[str, Any] = {"label": None, "count": 3, "seed": 5, "steps": 4, "guidance": None} | asked
    return draw(Bundle.open(bundle), **given, runtime="onnxruntime", progress=lambda done, of: None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """The shapes that each call was given."""
    seen: list[dict[str, tuple[int, ...]]] = []
    real = OnnxRuntimeRunner.infer

    def infer(self: OnnxRuntimeRunner, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append({name: value.shape for name, value in inputs.items()})
        return real(self, inputs)

    monkeypatch.setattr(OnnxRuntimeRunner, "infer", infer)
    return seen


def test_a_step_is_one_call_with_each_image_once(guided_bundle: Path, calls: list[dict[str, tuple[int, ...]]]) -> None:
    _drawn(guided_bundle, count=2, steps=None)
    assert len(calls) == 49
    assert {each["x"] for each in calls} == {(2, 1, 16, 16)}


def test_on_a_gpu_its_steps_stay_there_where_they_are_checked_and_where_they_are_drawn(
    guided_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch)
    called: list[bool] = []
    real = OnnxRuntimeCudaRunner.infer_on_device

    def infer_on_device(self: OnnxRuntimeCudaRunner, inputs: dict[str, Any]) -> dict[str, Any]:
        called.append(all(isinstance(each, DeviceTensor) for each in inputs.values()))
        return real(self, inputs)

    monkeypatch.setattr(OnnxRuntimeCudaRunner, "infer_on_device", infer_on_device)
    done = cli("verify", guided_bundle, "--runtime", "onnxruntime-cuda", "--json")
    assert done.code == 0 and called == [True] * 2  # the steps of the golden trajectory
    drawing = ("sample", guided_bundle, "--runtime", "onnxruntime-cuda", "--count", "1", "-o", tmp_path / "a.png")
    assert "crosses the bus" not in cli(*drawing, "--steps", "4").err
    assert called == [True] * (2 + 3)
    assert "made for other guidance, or fewer steps" in cli(*drawing, "--guidance", "1", "--steps", "3").err
    assert len(called) == 2 + 3
    cuda_problem.cache_clear()


def test_its_samples_are_those_of_the_model_alone(guided_bundle: Path, tmp_path: Path) -> None:
    plain = _without_steps(guided_bundle, tmp_path / "plain.dsr")
    np.testing.assert_array_equal(_drawn(guided_bundle), _drawn(plain))


def _without_steps(bundle: Path, out: Path) -> Path:
    opened = Bundle.open(bundle)
    config = ExportConfig(targets=("onnxruntime",), batch=opened.manifest.batch_range(), trajectory_steps=3, out=out)
    return export(config).path


@pytest.mark.parametrize("asked", [{"guidance": 1.0}, {"steps": 1002, "count": 1}])
def test_another_sampler_than_it_was_made_for_takes_the_model(
    asked: dict[str, Any], guided_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[set[str]] = []

    def infer(self: OnnxRuntimeRunner, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken.append(set(inputs))
        return {"out": inputs["x"]}

    monkeypatch.setattr(OnnxRuntimeRunner, "infer", infer)
    _drawn(guided_bundle, **asked)
    assert taken[0] == {"x", "t", "y"}


def test_it_is_verified_like_any_other_graph(guided_bundle: Path, fused_bundle: Path, cli: Cli) -> None:
    for bundle, sizes in ((guided_bundle, (1, 2)), (fused_bundle, (1, 2, 4))):
        reports = [Bundle.open(bundle).report(), json.loads(cli("verify", bundle, "--json").out)]
        for report in reports:
            rows = {row["check"]: row["passed"] for row in report["parity"] if row.get("target") == STEP}
            assert rows == {**{f"step-{size}": True for size in sizes}, "trajectory": True}
            assert report["passed"]
            assert report["fused_step"]["graphs"] == [STEP, OWN_STEP]


def test_a_wrong_step_fails(guided_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """By a weight of the model in it, or by what is around it."""
    for i, (node, which) in enumerate((("blocks.1.mlp.w3/MatMul", 1), ("dsr/step/root/nulls", 0))):
        model = onnx.load(guided_bundle / STEP)
        name = next(each.input[which] for each in model.graph.node if each.name == node)
        taken = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        taken.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(taken) // 2, name))
        done = cli(
            "verify", rewritten(guided_bundle, tmp_path / f"{i}.dsr", {STEP: model.SerializeToString()}), "--json"
        )
        failed = {row.get("target") for row in json.loads(done.out)["parity"] if not row["passed"]}
        assert (done.code, failed) == (3, {STEP})


def test_a_step_that_gives_something_else_fails_its_checks(fused_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(fused_bundle / STEP)
    model.graph.output.pop()
    done = cli("verify", rewritten(fused_bundle, tmp_path / "b.dsr", {STEP: model.SerializeToString()}), "--json")
    rows = {row["check"]: row["problem"] for row in json.loads(done.out)["parity"] if row.get("target") == STEP}
    assert done.code == 3
    assert rows.keys() == {"step-1", "step-2", "step-4", "trajectory"}
    assert all("the step gives no 'next_step'" in problem for problem in rows.values())


def test_a_difference_of_steps_is_told(fused_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """`sample` takes them: two bundles of one model may draw other pictures."""
    model = onnx.load(fused_bundle / STEP)
    name = next(each.input[1] for each in model.graph.node if each.name == "dsr/step/root/following")
    taken = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    taken.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(taken) + 1, name))
    other = rewritten(fused_bundle, tmp_path / "other.dsr", {STEP: model.SerializeToString()})
    found = json.loads(cli("diff", fused_bundle, other, "--json").out)
    assert [each["name"] for each in found["step_graphs"][STEP]["weights"]["changed"]] == [name]
    assert found["weights"]["changed"] == []
    lost = _sealed_without(fused_bundle, tmp_path / "lost.dsr", STEP)
    assert f"graph {STEP}: not in B" in cli("diff", fused_bundle, lost).out
    resealed = rewritten(fused_bundle, tmp_path / "resealed.dsr", name="other")
    assert f"graph {STEP}: identical, byte for byte" in cli("diff", fused_bundle, resealed).out


def test_engines_of_steps_are_compiled_with_those_of_the_model(fused_bundle: Path, tmp_path: Path, cli: Cli) -> None:
    made = recompile(CompileRequest(bundle=fused_bundle, target="rtx", out=tmp_path / "rtx.dsr"))
    plan = "step/engines/rtx.plan"
    assert made.file(plan).stat().st_size > 1000
    facts = made.report()["fused_step"]["engines"]["rtx"]
    assert facts["profile"]["x"] == {"min": [1, 8, 4, 4], "opt": [2, 8, 4, 4], "max": [4, 8, 4, 4]}
    assert [each["name"] for each in facts["outputs"]] == ["next_x", "next_step"]
    schedule = json.loads(cli("inspect", tmp_path / "rtx.dsr", "--json").out)["step_schedules"]["rtx"]
    assert schedule["batch"] == 2 and schedule["launches"] == len(facts["schedule"]["launches"])
    assert "What the engine of a whole step does" in made.file("report.html").read_text(encoding="utf-8")
    told = json.loads(cli("diff", fused_bundle, tmp_path / "rtx.dsr", "--json").out)["step_engines"][plan]
    assert told["a"] is None and told["b"]["schedule"]["launches"] == schedule["launches"]
    page = tmp_path / "diff.html"
    text = cli(
        "diff", tmp_path / "rtx.dsr", rewritten(tmp_path / "rtx.dsr", tmp_path / "b.dsr", name="b"), "--html", page
    )
    assert f"engine {plan}: " in text.out and "  moves " in text.out.split(f"engine {plan}: ")[1]
    assert f"What the engines do: {plan}" in page.read_text(encoding="utf-8")
    left = {each["engine"] for each in json.loads(cli("verify", tmp_path / "rtx.dsr", "--json").out)["engines_not_run"]}
    assert left == {"engines/rtx.plan", plan}
    broken = rewritten(tmp_path / "rtx.dsr", tmp_path / "broken.dsr", {plan: b"no plan"})
    lost = _sealed_without(tmp_path / "rtx.dsr", tmp_path / "lost.dsr", plan)
    for bundle, check in ((broken, "engine_headers"), (lost, "rows_of_build")):
        done = cli("verify", bundle, "--json")
        checks = {each["name"]: each["problem"] for each in json.loads(done.out)["checks"] if not each["passed"]}
        assert done.code == 3
        assert plan in checks[check]


def test_engines_of_steps_are_held_to_the_advice_as_those_of_the_model_are(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    asked = dataclasses.replace(denoiser_config(tmp_path / "b.dsr"), precision="fp16", targets=("rtx",), fuse_step=True)
    report = export(dataclasses.replace(asked, strict=True)).report()
    found = {check["target"]: check["name"] for check in report["checks"] if check.get("target")}
    assert found == dict.fromkeys(("rtx", "step/engines/rtx.plan"), "declared_fp32_between_kernels")


def test_a_model_without_a_sampler_has_no_step(tmp_path: Path) -> None:
    asked = dataclasses.replace(decoder_config(tmp_path / "decoder.dsr"), fuse_step=True)
    with pytest.raises(ExportError, match="has no sampler"):
        export(asked)
    assert not (tmp_path / "decoder.dsr").exists()


@pytest.mark.slow
def test_what_has_no_step_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MakeReference, "work", lambda *given: pytest.fail("the reference was walked"))
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "cache"))
    for model, batch, told in (("decoder", BatchRange(2, 2, 2), "no sampler"), ("digits", BatchRange(3, 3, 3), "of 3")):
        plain = ExportConfig(targets=("onnxruntime",)) if model == "digits" else decoder_config(tmp_path)
        with pytest.raises(ExportError, match=told):
            export(dataclasses.replace(plain, batch=batch, out=tmp_path / "out.dsr", fuse_step=True))


def _sealed_without(bundle: Path, out: Path, *names: str, **manifest: Any) -> Path:
    opened = Bundle.open(bundle)
    contents: dict[str, Path | bytes] = {each: opened.file(each) for each in opened.manifest.files if each not in names}
    return write_bundle(out, dataclasses.replace(opened.manifest, files={}, **manifest), contents)


@pytest.mark.parametrize(
    ("names", "manifest", "told"),
    [((STEP,), {}, f"there is no {STEP}"), ((), {"sampler": None}, "the manifest declares no sampler")],
    ids=["no_graph", "no_sampler"],
)
def test_a_bundle_that_lost_its_step_says_so(
    names: tuple[str, ...], manifest: dict[str, Any], told: str, fused_bundle: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("verify", _sealed_without(fused_bundle, tmp_path / "b.dsr", *names, **manifest), "--json")
    failed = {each["name"]: each["problem"] for each in json.loads(done.out)["checks"] if not each["passed"]}
    assert (done.code, failed.keys()) == (3, {"rows_of_build"})
    assert told in failed["rows_of_build"]


def test_images_make_batches_that_the_model_is_built_for() -> None:
    guided = SamplerSpec(guidance=2.0, null_label=1)
    assert image_batch(BatchRange(1, 2, 8), guided) == BatchRange(1, 1, 4)
    assert image_batch(BatchRange(3, 5, 9), guided) == BatchRange(2, 2, 4)
    assert image_batch(BatchRange(3, 5, 9), SamplerSpec()) == BatchRange(3, 5, 9)
    with pytest.raises(ExportError, match="no number of images makes a batch of 3"):
        image_batch(BatchRange(3, 3, 3), guided)
