"""What both reports say: the rows of each check side by side, the checks, the engines and the times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dsr_export.bundle.reader import Bundle
from dsr_export.engine_schedule.summary import schedule_summaries
from dsr_export.reports.figures import is_known
from dsr_export.reports.wording import owned

METRICS = ("snr_db", "psnr_db", "cosine", "max_abs")


def parity_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by check, output and runtime; a side that has no such row is None. `delta` is B minus A."""
    left, right = _keyed(a), _keyed(b)
    rows = []
    for key in dict.fromkeys([*left, *right]):
        sides = {name: None if row is None else _figures(row) for name, row in _pair(left, right, key)}
        check, output, runtime, _ = key
        rows.append({"check": check, "output": output, "runtime": runtime, **sides, "delta": _delta(**sides)})
    return rows


def check_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The other checks of the reports: value and verdict of each side."""
    left, right = ({owned(check.get("component"), check["name"]): check for check in checks} for checks in (a, b))
    keys = ("value", "passed")
    return [
        {
            "name": name,
            **{side: check and {key: check[key] for key in keys} for side, check in _pair(left, right, name)},
        }
        for name in dict.fromkeys([*left, *right])
    ]


def engine_difference(a: Bundle, b: Bundle) -> dict[str, dict[str, Any]]:
    """Target -> size, version, build time and schedule of the engine in each bundle, None where there is none."""
    left, right = (_engines(each) for each in (a, b))
    return {name: dict(_pair(left, right, name)) for name in sorted({*left, *right})}


def stage_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage -> the seconds it took in each build, and whether it came from the cache."""
    left, right = ({row["name"]: {k: row[k] for k in ("seconds", "cached")} for row in rows} for rows in (a, b))
    return {name: dict(_pair(left, right, name)) for name in dict.fromkeys([*left, *right])}


def _pair(left: Mapping[Any, Any], right: Mapping[Any, Any], key: Any) -> list[tuple[str, Any]]:
    return [("a", left.get(key)), ("b", right.get(key))]


def _keyed(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, int], Mapping[str, Any]]:
    """Counted as well: two engines of one runtime have rows of the same name."""
    seen: Counter[tuple[str, str, str]] = Counter()
    keyed = {}
    for row in rows:
        key = (row["check"], row["output"], row["runtime"])
        keyed[(*key, seen[key])] = row
        seen[key] += 1
    return keyed


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in (*METRICS, "passed", "problem")}


def _delta(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> dict[str, float | None]:
    def minus(metric: str) -> float | None:
        left, right = (None if side is None else side[metric] for side in (a, b))
        return right - left if is_known(left) and is_known(right) else None

    return {metric: minus(metric) for metric in METRICS}


def _engines(bundle: Bundle) -> dict[str, dict[str, Any]]:
    schedules = schedule_summaries(bundle.report())
    engines = [target for target in bundle.manifest.targets if target.engine]
    return {each.name: _engine(each.version, each.facts) | {"schedule": schedules.get(each.name)} for each in engines}


def _engine(version: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": version, "plan_bytes": facts.get("plan_bytes"), "seconds": facts.get("seconds")}
