"""report_schema.md says what is in real reports: no key more, no key fewer, and of the type it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.reports.record import SCHEMA_VERSION
from dsr_export.verification.verify import verify
from graphs.precisions import quantized_precisions, report_key
from tests.reports.sample_report import fp8_report, full_report

TEXT = resources.files("dsr_export").joinpath("report_schema.md").read_text()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.startswith("| `")]
DOCUMENTED = {key.strip("`"): (kind, when) for key, kind, _unit, when, _meaning in ROWS}
KINDS = {"string": str, "boolean": bool, "integer": int, "object": dict}


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Documented key -> value, of everything that is no container, and of empty or open containers as far as known."""
    if isinstance(value, dict) and DOCUMENTED.get(at, ("",))[0] != "object":
        for key, inner in value.items():
            yield from _leaves(inner, _child(at, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, f"{at}[]")
    else:
        yield at, value


def _child(at: str, key: str) -> str:
    """`rewrites.<name>` for any key of `rewrites`, where the schema has that; else the key itself."""
    if not at:
        return "<precision>" if key in map(report_key, quantized_precisions()) else key
    prefix = f"{at}."
    names = {match[1] for known in DOCUMENTED if (match := re.match(re.escape(prefix) + r"(<\w+>)", known))}
    return prefix + (names.pop() if names else key)


def _is(value: Any, kind: str) -> bool:
    if " or null" in kind and value is None:
        return True
    kind = kind.removesuffix(" or null")
    if kind == "number":
        return type(value) in (int, float)
    return type(value) is KINDS[kind]


def _check(report: dict[str, Any]) -> set[str]:
    found = set()
    for key, value in _leaves(report):
        assert any(known == key or known.startswith((f"{key}.", f"{key}[")) for known in DOCUMENTED), (
            f"undocumented: {key}"
        )
        if key in DOCUMENTED:
            assert _is(value, DOCUMENTED[key][0]), (key, value)
            found.add(key)
    return found


def _always() -> set[str]:
    return {key for key, (_, when) in DOCUMENTED.items() if when == "always" and key != "token_norms"}


@pytest.fixture(scope="module")
def reports(digits_bundle: Path, pipeline_bundle: Path) -> list[dict[str, Any]]:
    """Of a build with an engine, of a pipeline's build, and of their verifications."""
    built = [Bundle.open(path).report() for path in (digits_bundle, pipeline_bundle)]
    return [*built, verify(pipeline_bundle)]


def test_every_key_of_real_reports_is_documented_and_of_its_type(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert _always() <= _check(report)


FINER = tuple(name for name in quantized_precisions() if name != "int8")


def test_every_documented_key_is_somewhere(reports: list[dict[str, Any]]) -> None:
    rare = {key for key, (_, when) in DOCUMENTED.items() if when in ("near misses", "wide tensors", "claims not held")}
    found = set().union(*(_check(report) for report in [*reports, full_report(), *map(fp8_report, FINER)]))
    assert set(DOCUMENTED) - found - rare - {"token_norms"} == set()


PLAIN = re.compile(r"(?:[a-z0-9_]+|<[a-z]+>)(?:\[\])*")


@pytest.mark.parametrize("precision", quantized_precisions())
def test_keys_are_plain_words(precision: str) -> None:
    """What `jq` and attributes take without quotes; names of files, rewrites and devices are open, and no keys."""
    report = full_report() if precision == "int8" else fp8_report(precision)
    assert {report_key(precision)} == set(map(report_key, quantized_precisions())) & report.keys()
    for key in (*report, *(key for key, _ in _leaves(report)), *DOCUMENTED):
        assert all(PLAIN.fullmatch(part) for part in key.split(".")), key


def test_builds_and_verifications_have_the_same_keys(reports: list[dict[str, Any]]) -> None:
    assert set(reports[1]) == set(reports[2])
    assert reports[1]["from_build"] == []
    assert {"model", "rewrites", "token_norms"} <= set(reports[2]["from_build"])


def test_the_version_is_the_documented_one() -> None:
    assert f"# report.json, schema version {SCHEMA_VERSION}" in TEXT


@pytest.mark.parametrize(
    "change", [{"unheard_of": 1}, {"passed": "yes"}, {"peak_rss_bytes": 1.5}, {"checks": [{"name": 3}]}]
)
def test_the_check_finds_what_is_not_as_documented(change: dict[str, Any]) -> None:
    _check(full_report())
    with pytest.raises(AssertionError):
        _check({**full_report(), **change})


def test_reports_are_strict_json() -> None:
    assert json.loads(json.dumps(full_report(), allow_nan=False)) == full_report()
