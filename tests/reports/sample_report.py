"""A report as it might come out of an INT8 build that failed, with every section filled."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsr_export.engine_schedule.facts import schedule_facts
from dsr_export.int8.gemm_costs import gemm_costs
from dsr_export.reports.sample_strips import sample_strips
from graphs.precisions import report_key
from tests.engine_schedule.tiny_plan import ATTENTION, NODES, PLAN, tiny_graph

TOLERANCE = {"max_abs": None, "cosine": 0.995, "psnr_db": 30.0, "snr_db": 20.0, "reason": "W8A8 per tensor"}


def parity_row(**other: Any) -> dict[str, Any]:
    """A row that passed, but for what is given."""
    names = {"check": "batch-8", "output": "out", "runtime": "onnxruntime", "reference": "torch-fp32"}
    figures = {"max_abs": 0.02, "mean_abs": 0.001, "cosine": 0.999, "psnr_db": 41.0, "snr_db": 33.0, "range": 2.0}
    return {**names, **figures, "problem": None, "tolerance": TOLERANCE, "passed": True, **other}


def gemm(name: str, **other: Any) -> dict[str, Any]:
    """One quantised GEMM."""
    roles = {
        "patch": {"count": 256, "amax": 4.0, "rms": 1.0, "buckets": [{"count": 64, "amax": 4.0, "rms": 1.0}] * 4},
        "register": {"count": 16, "amax": 20.0, "rms": 4.0},
        "outlier": {"count": 3, "amax": 300.0, "rms": 90.0},
    }
    made = {"name": name, "precision": "int8", "flops_share": 0.25, "rows": "static", "roles": roles, "smoothed": True}
    made |= {
        "reads": f"{name}.x",
        "tokens": 64,
        "inputs": 128,
        "outputs": 384,
        "rank": 0,
        "coded_product": False,
        "engine_floats": False,
    }
    return {**made, "snr_db": {"minmax": 18.0, "chosen": 31.0}, "sensitivity_db": 40.0, "clipped": 0.001, **other}


def engine_facts() -> dict[str, Any]:
    """As an engine's builder tells them, with a small schedule."""
    shapes = {
        "name": "x",
        "dtype": "float32",
        "declared_dtype": "float32",
        "declared_shape": ["n", 4],
        "shape": [-1, 4],
    }
    facts = schedule_facts(PLAN.replace(ATTENTION.encode(), NODES[5].encode(), 1), tiny_graph(), 2)
    part = {"stream_ms": 0.0, "graph_ms": facts["schedule"]["estimates"]["l4"]["graph_ms"] / 8, "memory_share": 0.5}
    sums = {"sites": 12, "launches": 24, "shared_launches": 13, "moved_bytes": 4_000_000, "estimates": {"l4": part}}
    facts["schedule"]["dsr_sites"] = sums
    facts["schedule"]["not_estimated"] = {"orin-nx": "orin-nx has no FP8"}
    facts["schedule"]["unlisted_weights"] = 2
    del facts["schedule"]["estimates"]["orin-nx"]
    return {
        "tool": "tensorrt_rtx",
        "version": "1.7",
        "polygraphy": "0.5",
        "target": "rtx",
        "platform": {"system": "Linux", "machine": "x86_64"},
        "compute_capabilities": ["8.9"],
        "plan_bytes": 13_000_000,
        "plan_sha256": "0f" * 32,
        "profile": {"x": {"min": [1, 4], "opt": [2, 4], "max": [8, 4]}},
        "inputs": [shapes],
        "outputs": [shapes],
        "layers": 42,
        "layer_output_types": {"float16": 42},
        "strongly_typed": True,
        "tf32": False,
        "warnings": ["something"],
        "seconds": 4.9,
        **facts,
    }


GEMMS = (gemm("blocks.0.qkv"), gemm("blocks.0.fc1", sensitivity_db=22.0, precision="fp16"))


def full_report() -> dict[str, Any]:
    """Failed: one row misses its bounds, one holds NaN, one check is not met."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32)
    strips = sample_strips(states, states + np.float32(0.1), np.array([3, 5]), runtime="onnxruntime")
    rewrite = {"count": 2, "sites": ["a", "b"], "misses": [], "nodes_before": 10, "nodes_after": 14}
    sites = [{"site": f"blocks.{i}", "module": f"blocks.{i}", "snr_db": 50.0 - 9 * i} for i in range(5)]
    roles = {"patch": {"snr_db": 19.0, "max_abs": 0.7}, "outlier": {"snr_db": 6.0, "max_abs": 31.0}}
    first = {"site": "blocks.4", "module": "blocks.4.attn", "snr_db": 14.0, "tolerance_db": 20.0, "roles": roles}
    first |= {"tensor": "blocks.4.attn/MatMul", "problem": None, "roles_at": "blocks.4/Add", "component": "decoder"}
    image = {"runtime": "onnxruntime", "image": 0, "psnr_db": 40.0, "ssim": 0.99, "passed": True}
    image |= {"psnr_floor_db": 30.0, "ssim_floor": 0.5}
    norms = {"site": "replacements.3", "before": [[1.0, 2.0, 3.0, 80.0]], "after": [[1.0, 2.0, 3.0, 2.5]]}
    return {
        "schema_version": 1,
        "from_build": [],
        "bundle": "some/dit.dsr",
        "passed": False,
        "precision": "int8",
        "target": "rtx",
        "targets": ["rtx"],
        "model": {"name": "dit", "family": "rae-dit", "parameters": 2_000_000},
        "batch": {"min": 1, "opt": 2, "max": 8},
        "stages": [
            {"name": "parity", "seconds": 4.0, "cached": False, "peak_rss_bytes": 900_000_000},
            {"name": "parity-engine", "seconds": 1.0, "cached": True},
        ],
        "parity": [
            parity_row(non_finite=12),
            parity_row(check="trajectory", output="sample", snr_db=12.25, cosine=0.97, passed=False),
            parity_row(
                runtime="tensorrt_rtx",
                target="rtx:sm89",
                passed=False,
                problem="12 of 64 values are NaN \x1b[0m <&>",
                **dict.fromkeys(("max_abs", "mean_abs", "cosine", "psnr_db", "snr_db", "range")),
            ),
        ],
        "trajectory_snr_db": [60.0, 30.0, 12.25],
        "special_rows": {"tried": 9, "left_out": 2},
        "samples": [strips],
        "checks": [
            {"name": "half_weight_fraction", "value": 0.25, "limit": 0.5, "passed": False},
            {"name": "attentions_fused", "target": "rtx", "value": 1.0, "limit": 1.0, "passed": True},
        ],
        "engines_not_run": [
            {"component": "decoder", "target": "rtx", "engine": "engines/rtx.plan", "reason": "there is no GPU <&>"}
        ],
        "manifest_digest": "0f" * 32,
        "signed_by": "sha256:" + "0f" * 32,
        "components": {},
        "rewrites": {"lower_replace_outliers": 2},
        "rewrite_details": {"lower_replace_outliers": {**rewrite, "operators": {"Where": 3, "ReplaceOutliers": -2}}},
        "token_norms": {"case": "batch-8", "times": [0.5], "sites": [{**norms, "replaced": [[3]]}]},
        "typing": {
            "precision": "int8",
            "half_weight_fraction": 0.25,
            "casts": 3,
            "fp32_nodes": 4,
            "fp32_reasons": {"norm statistics": 4},
        },
        "range_audit": {
            "limit": 16376.0,
            "runs": 52,
            "tensors": 9,
            "kept_fp32": {"dsr/lower/a/squares": "|x| reaches 2e5"},
            "widest": {"dsr/lower/a/squares": 2e5, "b": 3.0},
            "widest_sums": {"c": 40.0},
        },
        "compiled": {"rtx:sm89": {"version": "1.7", "seconds": 4.0, "verified": False, "not_run": "no GPU"}},
        "fused_step": {"images": {"min": 1, "opt": 1, "max": 4}, "graphs": ["step/model.onnx"], "engines": {}},
        "engines": {"rtx": engine_facts()},
        "advice": ["engine rtx: 1 of 2 GEMMs chosen for INT8 compute in another type: blocks.0.mlp/MatMul <&>"],
        "files": {"model.onnx": 4_900_000, "components/decoder/model.onnx": 7, "components/decoder/golden.npz": 3},
        "tools": {"numpy": "2.4.6", "dsr-export": "0.1.0"},
        "peak_rss_bytes": 1_000_000_000,
        "sites": sites,
        "tensors": [{**site, "tensor": "blocks.0/Add"} for site in sites],
        "images": [image],
        "bisection": {**first, "curve": sites[1:]},
        "int8": {
            "method": "mse",
            "data": [{"kind": "trajectory", "images": 4, "steps": None}],
            "aimed_snr_db": 26.0,
            "witness": "kernels",
            "budget_snr_db": 26.0,
            "reached_snr_db": 27.5,
            "sensitivity": "measured",
            "int8_flops_share": 0.75,
            "gemms": list(GEMMS),
            "cost": gemm_costs(GEMMS, 2),
        },
    }


def fp8_report(name: str = "fp8") -> dict[str, Any]:
    """The same of an FP8 build, or of that precision: one GEMM in each format, and a condition."""
    report = full_report()
    told = report.pop("int8")
    condition = {"rows": None, "sensitivity_db": None, "clipped": None, "snr_db": {"minmax": None, "chosen": None}}
    condition |= {"tokens": 1}
    gemms = [
        gemm("blocks.0.qkv", precision=name, rank=16 if name == "nvfp4" else 0),
        gemm("blocks.0.proj", sensitivity_db=30.0),
        gemm("blocks.0.fc1", sensitivity_db=22.0, precision="fp16"),
        gemm("blocks.0.adaLN", roles={}, **condition),
    ]
    del told["int8_flops_share"]
    told["data"] = [{"kind": "prompts", "pipeline": "FluxPipeline", "images": 4, "steps": 28, "prompts": 1}]
    told |= {"rank": 32} if name == "nvfp4" else {}
    return {
        **report,
        "precision": name,
        report_key(name): {
            **told,
            "budget_snr_db": 20.0,
            f"{report_key(name)}_flops_share": 0.25,
            "gemms": gemms,
            "cost": gemm_costs(gemms, 2),
        },
    }
