"""Times for people: a line for each way to call each model, and what was estimated beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dsr_export.backends.cuda.clocks import clock_words


def bench_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of the values that `bench` returns."""
    if "gpu" not in found:
        yield from map(_on_cpu, found["timings"])
        return
    gpu = found["gpu"]
    named = "a GPU" if gpu["name"] is None else f"{gpu['name']}, a driver for CUDA {gpu['cuda']}"
    yield f"{named}; before: {clock_words(gpu['clocks'])}"
    yield from map(_on_gpu, found["timings"])
    yield f"after: {clock_words(gpu['clocks_after'])}"
    for name, model in found["models"].items():
        yield from _model(name, model)


def _on_cpu(row: Mapping[str, Any]) -> str:
    spread = f"{row['ratio_low']:.3f}-{row['ratio_high']:.3f}"
    return f"{row['name']:<24} {row['median_ms']:9.2f} ms   {row['ratio']:.3f}x ({spread})"


def _on_gpu(row: Mapping[str, Any]) -> str:
    way = f"{row['place']} {'graph' if row['graph'] else 'stream'}"
    if row["problem"] is not None:
        return f"{row['name']:<24} {way:<13} {row['problem']}"
    times = f"{row['median_ms']:9.3f} ms, p95 {row['p95_ms']:.3f}, p99 {row['p99_ms']:.3f}"
    return f"{row['name']:<24} {way:<13} {times}   {row['ratio']:.3f}x ({row['ratio_low']:.3f}-{row['ratio_high']:.3f})"


def _model(name: str, model: Mapping[str, Any]) -> Iterator[str]:
    if model["memory_bytes"] is not None:
        yield f"{name}: {model['memory_bytes'] / 1e6:.1f} MB of the GPU's memory"
    told = model["estimate"]
    if told is None:
        return
    if told["problem"] is not None:
        yield f"{name}: no estimate: {told['problem']}"
        return
    ways = ", ".join(_against(way, told[f"{way}_ms"], told[f"{way}_measured"]) for way in ("stream", "graph"))
    yield f"{name}: estimated for {told['device']}: {ways}"


def _against(way: str, estimated: float, measured: float | None) -> str:
    beside = "" if measured is None else f" (measured {measured:.2f}x)"
    return f"{way} {estimated:.3f} ms{beside}"
