"""report.html: it stands alone, says the verdict first, and draws whatever the report holds."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.html.rasters import OUTLIER
from dsr_export.int8.gemm_costs import gemm_costs
from dsr_export.reports.page import report_page
from dsr_export.reports.record import Report
from dsr_export.reports.sample_strips import sample_strips
from graphs.precisions import report_key
from tests.html.reading import check_document
from tests.reports.sample_report import fp8_report, full_report, gemm, parity_row

SECTIONS = (
    "Verdicts",
    "Where the error arises",
    "Samples",
    "Token norms",
    "INT8",
    "Graph",
    "What the engine does",
    "Times and sizes",
)


def _page(report: dict[str, Any]) -> str:
    return report_page(Report.read(report))


def _headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_real_page_stands_alone_and_is_light(digits_bundle: Path) -> None:
    page = (digits_bundle / "report.html").read_text()
    tags = check_document(page)
    assert {"main", "h1", "h2", "h3", "table", "th", "img", "svg", "footer"} <= tags
    assert not re.search(r"""(?:src|href)\s*=\s*["']\s*(?:https?:)?//""", page)
    assert all(re.search(r'\balt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in tag for tag in re.findall(r"<th\b[^>]*>", page))
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert len(page.encode()) < 500_000
    assert page == _page(Bundle.open(digits_bundle).report())


def test_the_verdict_is_on_top_with_the_figures_behind_it() -> None:
    page = _page(full_report())
    top = page[page.index("<main>") : page.index('class="facts"')]
    assert "dit in INT8 failed: 2 of 3 comparisons out of tolerance and 1 of 2 checks not met." in top
    assert "The first site out of tolerance is blocks.4 (module blocks.4.attn), with an SNR of 14.0 dB" in top
    assert "trajectory sample on onnxruntime: cosine 0.970000, at least 0.995 needed; SNR 12.2 dB" in top
    assert 'class="verdict bad"' in top


def test_a_pass_names_the_comparison_with_the_least_to_spare() -> None:
    rows = [parity_row(), parity_row(check="batch-1", snr_db=21.0), parity_row(check="rows", snr_db=300.0)]
    page = _page({**full_report(), "passed": True, "parity": rows, "bundle": "a b.dsr"})
    assert "dit in INT8 passed: every comparison is within its tolerance." in page
    assert "Closest to its bound: batch-1 out on onnxruntime, SNR 21.0 dB where 20 dB are needed." in page
    assert "dsr-export verify 'a b.dsr'" in page


def test_every_section_is_drawn_from_what_is_there() -> None:
    page = _page(full_report())
    check_document(page)
    assert [next(s for s in SECTIONS if heading.startswith(s)) for heading in _headings(page)] == list(SECTIONS)
    for said in (
        "Layer by layer",
        "Over the steps of a sampling run",
        "Bisection",
        "Errors by kind of token at blocks.4",
        "1 of 2 GEMMs compute in INT8, 75 % of the FLOPs; ranges by mse",
        "Where +3, ReplaceOutliers \N{MINUS SIGN}2",
        "components/decoder/",
        "1 of 4 tokens replaced. Their largest norm was 80 and is 2.5; the largest of the others is 3.",
        "12 of 64 values are NaN",
        "Not compared: 2 of 9 rows of walks, zeros and the like",
        "The engine rtx: 7 launches, 0 of 1 attentions fused, 160 kB at batch 2.",
        "Advice: engine rtx: 1 of 2 GEMMs chosen for INT8",
        "Estimates, not measurements",
        "Not estimated: orin-nx has no FP8.",
        "All 7 launches",
    ):
        assert said in page, said


def test_the_share_of_dsr_sites_is_told_for_each_device() -> None:
    report = full_report()
    told = _page(report)
    assert "of it DSR sites" in told and "12.5%" in told  # and a dash where a device has no figure
    assert "at 12 sites, in 24 kernels of their own; 13 more do some of it" in told
    del report["engines"]["rtx"]["schedule"]["dsr_sites"]
    assert "DSR sites" not in _page(report)


def test_weights_that_the_graph_tells_are_said_to_be_its() -> None:
    report = full_report()
    assert "It does not list its weights: those of 2 products are the graph's." in html.unescape(_page(report))
    del report["engines"]["rtx"]["schedule"]["unlisted_weights"]
    assert "does not list its weights" not in _page(report)


def test_an_engine_that_does_not_tell_its_schedule_says_why() -> None:
    told, report = full_report()["engines"]["rtx"], full_report()
    reason = "the schedule of this plan cannot be read: <another> version"
    untold = {**told, "schedule": None, "schedule_problem": reason}
    page = _page({**report, "engines": {"rtx": told, "rtx:sm89": untold}})
    assert "rtx:sm89: the schedule of this plan cannot be read: &lt;another&gt; version." in page
    assert "What the engine does" not in _page({**report, "engines": {"rtx": untold}})
    assert "What the engine does" not in _page({**report, "engines": {"rtx": {"plan_bytes": 3}}})


def test_an_engine_of_a_whole_step_has_a_section_of_its_own() -> None:
    report, facts = full_report(), full_report()["engines"]["rtx"]
    title, place = "What the engine of a whole step does", "step/engines/rtx-sm89.plan"
    assert title not in _page(report)
    page = _page({**report, "fused_step": {**report["fused_step"], "engines": {"rtx:sm89": facts}}})
    check_document(page)
    assert page.count(title) == 1 and f"The engine {place}: 7 launches, 0 of 1 attentions fused" in page
    assert f"{place}, block by block" in page and page.count("Advice: ") == 1


def test_gemms_that_compute_in_another_type_than_the_graph_says_are_named_by_format() -> None:
    report = full_report()
    gemms = [{"node": f"b.{i}", "computes": "float16", "chosen": "float8e4m3", "chosen_integer": False} for i in "01"]
    gemms += [{"node": "c", "computes": "float16", "chosen": "int8", "chosen_integer": True}]
    gemms += [{"node": "d", "computes": "float8e4m3", "chosen": "float8e4m3", "chosen_integer": False}]
    report["engines"]["rtx"]["schedule"]["gemms"] = gemms
    page = _page(report)
    assert "Chosen for FP8, and of another type here: b.0, b.1. Chosen for INT8, and of another type here: c." in page
    gemms[:] = [{"node": "a", "computes": "float16", "chosen_integer": True}]  # by earlier versions
    assert "Chosen for INT8, and of another type here: a." in _page(report)


def test_what_is_not_there_is_left_out() -> None:
    optional = ("samples", "token_norms", "int8", "sites", "bisection", "rewrite_details", "typing", "range_audit")
    bare = {key: value for key, value in full_report().items() if key not in (*optional, "engines", "model")}
    page = _page({**bare, "trajectory_snr_db": []})
    check_document(page)
    assert _headings(page) == ["Verdicts", "Times and sizes"]
    assert "Build report of some/dit.dsr" in page


def test_a_verification_says_what_it_took_from_the_build() -> None:
    page = _page({**full_report(), "from_build": ["rewrites"]})
    assert "Verification of dit" in page
    assert "are as the build reported them" in page
    assert "are as the build reported them" not in _page(full_report())


def test_outliers_are_outlined_before_and_after() -> None:
    assert _page(full_report()).count('class="outlined"') == 3  # in both maps, and in the legend


def test_int8_is_told_as_it_always_was() -> None:
    told = full_report()["int8"]
    said = (
        "1 of 2 GEMMs compute in INT8, 75 % of the FLOPs; ranges by mse. "
        "The most sensitive for each byte stay in FP16 until the output keeps 26 dB."
    )
    assert said in _page(full_report())
    del told["aimed_snr_db"]  # by earlier versions
    assert said in _page({**full_report(), "int8": told})


def test_a_pipelines_walks_are_named_where_ranges_are_of_them() -> None:
    told = full_report()["int8"]
    walk = {"kind": "prompts", "pipeline": "FluxPipeline", "images": 4, "steps": 28, "prompts": 1}
    page = _page({**full_report(), "int8": {**told, "data": [walk]}})
    assert "ranges by mse, on 4 images of FluxPipeline from 1 prompt, 28 steps each. The most" in page
    classes = {"kind": "trajectory", "pipeline": "DiTPipeline", "images": 8, "steps": 50}
    page = _page({**full_report(), "int8": {**told, "data": [{"kind": "files"}, classes]}})
    assert "ranges by mse, on 8 images of DiTPipeline, 50 steps each. The most" in page


@pytest.mark.parametrize(("count", "said"), [(1, "1 of them stays FP16"), (2, "2 of them stay FP16")])
def test_what_engines_have_in_floats_all_the_same_is_said(count: int, said: str) -> None:
    told = full_report()["int8"]
    assert "In engines" not in _page({**full_report(), "int8": told})
    gemms = [{**each, "engine_floats": i < count} for i, each in enumerate(told["gemms"])]
    whole = f"until the output keeps 26 dB. In engines {said}: codes of what attention makes would cost a kernel each."
    assert whole in _page({**full_report(), "int8": {**told, "gemms": gemms}})


def test_the_formats_of_an_fp8_build_are_counted() -> None:
    told = {**fp8_report()["fp8"], "data": []}
    page = _page({**fp8_report(), "fp8": told})
    check_document(page)
    assert "<h2>FP8</h2>" in page and "SNR of each GEMM in FP8" in page and "with this GEMM alone in FP8" in page
    assert (
        "1 of 4 GEMMs compute in FP8 (25 % of the FLOPs), 2 in INT8, 1 stay FP16; ranges by mse. "
        "The most sensitive for each byte take INT8, or stay in FP16 until the output keeps 26 dB." in page
    )
    only = {**told, "gemms": [each for each in told["gemms"] if each["name"] in ("blocks.0.qkv", "blocks.0.adaLN")]}
    assert (
        "1 of 2 GEMMs compute in FP8 (25 % of the FLOPs), 1 in INT8; ranges by mse. "
        "The most sensitive for each byte take INT8, or stay in FP16 until" in _page({**fp8_report(), "fp8": only})
    )


def test_what_formats_cost_stands_beside_fp16() -> None:
    page = _page(fp8_report())
    table = re.sub(r"<[^>]+>", " ", page[page.index("Bytes and estimated times at batch 2") :]).split()
    said = " ".join(table)
    assert "FP8 INT8 FP16 as chosen all in FP16 GEMMs 1 2 1 4 4" in said
    assert re.search(r"estimated on orin-agx, ms no FP8 [0-9.]+ [0-9.]+ no FP8 [0-9.]+ ", said)
    assert re.search(r"estimated on rtx4090, ms( [0-9.]+){5} ", said) and "estimates, not measurements" in said
    whole = _page({**full_report(), "int8": {**full_report()["int8"], "cost": gemm_costs([gemm("a")], 4)}})
    assert '<th scope="col"></th><th scope="col">as chosen</th>' in whole  # one format is the sum
    told = full_report()["int8"]
    del told["cost"]  # by earlier versions
    assert "estimated times at batch" not in _page({**full_report(), "int8": told})


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("int4", "1 of 4 GEMMs have INT4 weights (25 % of the FLOPs), 2 in INT8"),
        ("int4", "The most sensitive for each byte take INT8, or stay in FP16 until"),
        ("nvfp4-weights", "1 of 4 GEMMs have NVFP4 weights (25 %"),
        ("nvfp4-weights", "The most sensitive for each byte take FP8 or INT8, or stay in FP16 until"),
        ("nvfp4", "1 of 4 GEMMs compute in NVFP4 (25 % of the FLOPs), 2 in INT8"),
    ],
)
def test_weights_of_four_bits_are_told_from_products_in_them(precision: str, said: str) -> None:
    report, key = fp8_report(precision), report_key(precision)
    told = "Numbers are checked by emulation, with codes written out"
    assert said in _page(report) and told not in _page(report)
    assert told in _page({**report, key: {**report[key], "witness": "emulation"}})


def test_the_worst_gemm_comes_first_and_long_lists_fold() -> None:
    gemms = [gemm(f"gemm{i}", sensitivity_db=50.0 - i) for i in range(20)]
    page = _page({**full_report(), "int8": {**full_report()["int8"], "gemms": gemms}})
    ranking = page[page.index("Sensitivity, worst first") :]
    assert ranking.index(">gemm19<") < ranking.index(">gemm9<") < ranking.index("All 20 GEMMs")
    assert ranking.index(">gemm0<") > ranking.index("All 20 GEMMs")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"token_norms": 3}, "report.json of some/dit.dsr: token_norms is 3, expected an object"),
        ({"token_norms": {"sites": 3}}, "some/dit.dsr.token_norms: sites is 3, expected a list of objects"),
        ({"token_norms": {"sites": [{"before": [[1.0], [2.0, 3.0]]}]}}, r"before is .*, expected rows of one length"),
        ({"token_norms": {"sites": [{"before": [[1.0]], "after": [[1.0, 2.0]]}]}}, "expected as many figures"),
        (
            {"token_norms": {"sites": [{"before": [[1.0]], "after": [[1.0]], "replaced": [[1]]}]}},
            r"replaced is \[\[1\]\], expected tokens below 1",
        ),
        ({"typing": {"fp32_nodes": 1, "fp32_reasons": ["x"]}}, "typing: fp32_reasons is .*, expected an object"),
        ({"range_audit": {"widest": 1}}, "range_audit: widest is 1, expected an object"),
        ({"rewrite_details": {"fold": 1}}, "rewrite_details: fold is 1, expected an object"),
        ({"int8": {"gemms": [{}]}}, r"int8.gemms\[0\]: name is missing, expected a text"),
        ({"engines": {"rtx": []}}, r"engines: rtx is \[\], expected an object"),
        ({"sites": {"a": 1}}, "sites is .*, expected a list of objects"),
        ({"special_rows": 1}, "special_rows is 1, expected an object"),
    ],
)
def test_a_section_of_another_form_is_named(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        _page({**full_report(), **section})
    assert caught.value.hint is not None and "another version" in caught.value.hint


@pytest.mark.parametrize(
    "section", ["token_norms", "typing", "range_audit", "int8", "fp8", "sites", "special_rows", "model"]
)
def test_a_section_that_lacks_everything_is_drawn_all_the_same(section: str) -> None:
    bare: Any = [{}] if section == "sites" else {"unheard_of": 1}
    check_document(_page({**full_report(), section: bare}))


def test_a_count_that_came_as_a_float_is_drawn() -> None:
    page = _page({**full_report(), "typing": {**full_report()["typing"], "fp32_nodes": 4.0}})
    assert page == _page(full_report())


# -- samples --------------------------------------------------------------------------------------------------------


def _pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def _strips(reference: np.ndarray, candidate: np.ndarray) -> dict[str, Any]:
    made = sample_strips(reference, candidate, np.arange(len(reference)), runtime="onnxruntime")
    assert made is not None
    return made


def test_strips_show_what_they_are_given() -> None:
    states = np.full((2, 1, 4, 4), -1.0, np.float32)
    states[1] = 1.0
    moved = states.copy()
    moved[0, 0, 2, 3] += 0.5
    made = _strips(states, moved)
    strip = _pixels(made["reference"])
    assert strip.shape == (4, 9, 4)
    assert strip[0, 0].tolist() == [0, 0, 0, 255] and strip[0, 8].tolist() == [255, 255, 255, 255]
    assert strip[0, 4, 3] == 0  # the gap is transparent
    difference = _pixels(made["difference"])[..., :3].sum(axis=2).astype(int)
    assert np.unravel_index(difference.argmax(), difference.shape) == (2, 3)
    assert (made["kind"], made["difference_max"], made["not_finite"]) == ("picture", 0.5, 0)


def test_values_that_are_not_finite_are_drawn_red() -> None:
    states = np.zeros((1, 3, 4, 4), np.float32)
    broken = states.copy()
    broken[0, 1, 2, 3] = np.nan
    made = _strips(states, broken)
    assert tuple(_pixels(made["candidate"])[2, 3, :3]) == OUTLIER
    assert tuple(_pixels(made["difference"])[2, 3, :3]) == OUTLIER
    assert made["not_finite"] == 1
    assert "Red: 1 values of the candidate are NaN" in _page({**full_report(), "samples": [made]})


def test_latents_are_said_to_be_latents(rng: np.random.Generator) -> None:
    latents = rng.standard_normal((6, 16, 4, 4)).astype(np.float32)
    made = _strips(latents, latents)
    assert (made["kind"], made["labels"], made["difference_max"]) == ("latent", [0, 1, 2, 3], 0.0)
    assert len(np.unique(_pixels(made["reference"])[..., :3].reshape(-1, 3), axis=0)) > 20
    assert "first three channels" in _page({**full_report(), "samples": [made]})
    assert sample_strips(latents[:, 0], latents[:, 0], np.arange(6), runtime="x") is None


def test_large_pictures_are_made_smaller(rng: np.random.Generator) -> None:
    states = rng.uniform(-1, 1, (1, 3, 300, 300)).astype(np.float32)
    assert _pixels(_strips(states, states)["candidate"]).shape == (100, 100, 4)
