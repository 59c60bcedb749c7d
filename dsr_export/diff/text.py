"""A difference of bundles for people: what differs, the worst first, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsr_export.diff.schedules import schedule_changes
from dsr_export.reports.figures import is_known, number

SHOWN = 10  # of each kind; --json has all


def diff_lines(found: Mapping[str, Any]) -> list[str]:
    """Lines of text, without an end of line."""
    lines = [f"A: {found['a']}", f"B: {found['b']}", *_sections(found)]
    lines += [f"REGRESSION  {text}" for text in found["regressions"]]
    lines.append("B is worse than A" if found["regressions"] else "no regression")
    return lines


def _sections(found: Mapping[str, Any]) -> Iterator[str]:
    if found["identical"]:
        yield "identical, byte for byte"
        return
    for path, sides in found["manifest"].items():
        yield f"  {path}: {_short(sides['a'])} -> {_short(sides['b'])}"
    yield from _graph(found["graph"])
    yield from _weights(found["weights"])
    if found["engine_graph"] is not None:
        yield from _other_graph("graph of engines", found["engine_graph"])
    if found["runtime_graph"] is not None:
        yield from _other_graph("graph for ONNX Runtime", found["runtime_graph"])
    for place, step in found["step_graphs"].items():
        yield from _other_graph(f"graph {place}", step)
    yield from _rows(found["parity"])
    yield from _engines({**found["engines"], **found["step_engines"]})
    yield from _outputs(found["outputs"])
    for role, part in found["components"].items():
        yield f"component {role}:"
        yield from (f"  {line}" for line in _sections(part))


def _graph(graph: Mapping[str, Any]) -> Iterator[str]:
    yield f"graph: {graph['nodes']['a']} -> {graph['nodes']['b']} nodes"
    for op, sides in graph["operators"].items():
        yield f"  {op}: {sides['a']} -> {sides['b']}"
    for kind in ("added", "removed", "changed"):
        yield from _listed(f"nodes {kind}", graph[f"nodes_{kind}"])


def _other_graph(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("lacking"):
        yield f"{title}: not in {found['lacking'][0].upper()}"
        return
    if found["files"]["a"] == found["files"]["b"]:
        yield f"{title}: identical, byte for byte"
        return
    yield f"{title}:"
    yield from (f"  {line}" for line in (*_graph(found["graph"]), *_weights(found["weights"])))


def _weights(weights: Mapping[str, Any]) -> Iterator[str]:
    yield f"weights: {weights['unchanged']} unchanged, {len(weights['changed'])} changed"
    for change in weights["changed"][:SHOWN]:
        form = change["a"] if change["a"] == change["b"] else f"{change['a']} -> {change['b']}"
        figures = change["problem"] or f"max {number(change['max_abs'], '.2e')}  SNR {_figure(change, 'snr_db')} dB"
        yield f"  {change['name']} {form}: {figures}"
    if len(weights["changed"]) > SHOWN:
        yield f"  and {len(weights['changed']) - SHOWN} more"
    for kind in ("added", "removed"):
        yield from _listed(f"weights {kind}", weights[kind])


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "parity as built:"
    for row in rows:
        ran = row["runtime"] if row["target"] is None else f"{row['runtime']} ({row['target']})"
        yield f"  {ran:<12} {row['check']:<11} {row['output']:<8} {_change(row['a'], row['b'])}"


def _outputs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "A's golden inputs, run here:"
    for row in rows:
        between = row["b_against_a"]
        direct = between["problem"] or f"SNR {_figure(between, 'snr_db')} dB"
        yield f"  batch {row['batch']} {row['output']:<8} {_change(row['a'], row['b'])}  B against A: {direct}"


def _engines(engines: Mapping[str, Any]) -> Iterator[str]:
    for target, sides in engines.items():
        yield f"engine {target}: {_engine(sides['a'])} -> {_engine(sides['b'])}"
        told = [side and side.get("schedule") for side in (sides["a"], sides["b"])]
        if all(isinstance(each, dict) for each in told):
            yield from (f"  {line}" for line in schedule_changes(*told))


def _engine(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "none"
    known = is_known(side["plan_bytes"]) and is_known(side["seconds"])
    size = f"{side['plan_bytes'] / 1e6:.2f} MB in {side['seconds']:.1f} s, " if known else ""
    return f"{size}version {side['version']}"


def _change(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str:
    return f"SNR {_figure(a, 'snr_db')} -> {_figure(b, 'snr_db')} dB  PSNR {_figure(a, 'psnr_db')} -> " + (
        f"{_figure(b, 'psnr_db')} dB  cos {_figure(a, 'cosine', 6)} -> {_figure(b, 'cosine', 6)}"
    )


def _figure(side: Mapping[str, Any] | None, metric: str, digits: int = 1) -> str:
    return number(side[metric], f".{digits}f") if side is not None and is_known(side[metric]) else "-"


def _listed(title: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"  {title} ({len(names)}): {', '.join(names[:SHOWN])}{more}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
