"""What both reports say: the rows of each check side by side, the checks, the engines and the times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dsr_export.bundle.paths import step_plan_path
from dsr_export.bundle.reader import Bundle
from dsr_export.engine_schedule.summary import of_steps, schedule_details
from dsr_export.reports.figures import is_known
from dsr_export.reports.wording import owned

METRICS = ("snr_db", "psnr_db", "cosine", "max_abs")
OF_ROW = ("check", "output", "runtime", "target", "component")
OF_CHECK = ("component", "name", "target")
"""What tells rows apart, and checks: an engine's row must not stand for another's."""
VERDICT = ("value", "passed")
COST = ("seconds", "cached", "peak_rss_bytes")


def parity_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by check, output, runtime and what was run in it; a side that has no such row is None. `delta` is B minus
    A."""
    left, right = (_keyed(rows, *OF_ROW) for rows in (a, b))
    found = []
    for key in dict.fromkeys([*left, *right]):
        sides = {name: None if row is None else _figures(row) for name, row in _pair(left, right, key)}
        found.append({**dict(zip(OF_ROW, key, strict=False)), **sides, "delta": _delta(**sides)})
    return found


def check_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The other checks of the reports, each of one model or engine: value and verdict of each side."""
    left, right = (_keyed(checks, *OF_CHECK) for checks in (a, b))
    found = []
    for key in dict.fromkeys([*left, *right]):
        sides = {side: check and {name: check[name] for name in VERDICT} for side, check in _pair(left, right, key)}
        component, name, target, _ = key
        found.append({"name": owned(component, name), "target": target, **sides})
    return found


def engine_difference(a: Bundle, b: Bundle) -> dict[str, dict[str, Any]]:
    """Target -> size, version, build time and schedule of the engine in each bundle, None where there is none."""
    return _beside(*(_engines(each) for each in (a, b)))


def step_engine_difference(a: Bundle, b: Bundle) -> dict[str, dict[str, Any]]:
    """The same of engines that hold a whole step of the sampler, by their place in the bundle."""
    return _beside(*(_step_engines(each) for each in (a, b)))


def _beside(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: dict(_pair(left, right, name)) for name in sorted({*left, *right})}


def stage_difference(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage -> the seconds it took in each build, and whether it came from the cache.

    A stage that ran again for another graph or engine is `engine 2`.
    """
    left, right = (_keyed(rows, "name") for rows in (a, b))
    found = {}
    for key in dict.fromkeys([*left, *right]):
        name, count = key
        sides = {side: row and {each: row.get(each) for each in COST} for side, row in _pair(left, right, key)}
        found[f"{name} {count + 1}" if count else name] = sides
    return found


def _pair(left: Mapping[Any, Any], right: Mapping[Any, Any], key: Any) -> list[tuple[str, Any]]:
    return [("a", left.get(key)), ("b", right.get(key))]


def _keyed(rows: Iterable[Mapping[str, Any]], *keys: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """By these values, of which older reports lack some. Counted as well: not every row names its engine."""
    seen: Counter[tuple[Any, ...]] = Counter()
    keyed = {}
    for row in rows:
        key = tuple(row.get(each) for each in keys)
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
    schedules = schedule_details(bundle.report())
    engines = [target for target in bundle.manifest.targets if target.engine]
    return {each.name: _engine(each.version, each.facts) | {"schedule": schedules.get(each.name)} for each in engines}


def _step_engines(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """The manifest lists their files, and the report their facts."""
    steps = of_steps(bundle.report())
    schedules, told = schedule_details(steps), steps.get("engines", {})
    held = {name: step_plan_path(name) for name in schedules if step_plan_path(name) in bundle.manifest.files}
    return {
        place: _engine(str(told[name].get("version")), told[name]) | {"schedule": schedules[name]}
        for name, place in held.items()
    }


def _engine(version: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": version, "plan_bytes": facts.get("plan_bytes"), "seconds": facts.get("seconds")}
