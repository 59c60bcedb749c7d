"""`EngineSchedule`: the launches of one engine, and what they add up to. Sizes are those at one batch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ATTENTION, GEMM, CONVOLUTION, TOPK, REDUCTION, POINTWISE, COPY = KINDS = (
    "attention",
    "gemm",
    "convolution",
    "topk",
    "reduction",
    "pointwise",
    "copy",
)
"""`reduction`: sums over an axis with whatever is fused to them, as in norms. `copy`: moves and converts alone."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel launch. `read` and `written`: element type -> bytes, every tensor counted whole and each once.

    `nodes` are the ONNX nodes that it computes, `block` the block that most of them stand in (None where it is of none,
    or of several). `kernel` is the name of a generated kernel, which lists what is fused in it, or the plan's word for
    any other. `computes` is the type of a product's operands (`int8`, or `float16 x int8`), and `operations` its
    multiplications and additions; both are None for other kinds.
    """

    kind: str
    kernel: str
    nodes: tuple[str, ...]
    block: str | None = None
    read: Mapping[str, int]
    written: Mapping[str, int]
    computes: str | None = None
    operations: int | None = None

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(self.read.values()) + sum(self.written.values())

    @property
    def types(self) -> tuple[str, ...]:
        """Element types of what it reads and writes, sorted."""
        return tuple(sorted({*self.read, *self.written}))

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"nodes": list(self.nodes), "read": dict(self.read), "written": dict(self.written)}


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A tensor that one launch makes and others read; `made_by` and `read_by` are places in `launches`."""

    type: str
    bytes: int
    made_by: int
    read_by: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineSchedule:
    """What an engine launches, in order, at `batch`; `passed` are the FP32 tensors between launches."""

    batch: int
    launches: tuple[Launch, ...]
    passed: tuple[Passed, ...]

    @property
    def moved(self) -> int:
        """Bytes that all launches read and write."""
        return sum(each.moved for each in self.launches)

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Kind -> `launches` and `moved_bytes`, in the order of `KINDS`."""
        found = self._of("kind")
        return {kind: _sums(found[kind]) for kind in KINDS if kind in found}

    def by_block(self) -> list[dict[str, Any]]:
        """Blocks in the order of their first launch: `block`, `launches`, `moved_bytes`, and bytes by kind."""
        return [{"block": block, **_sums(own), "kinds": _kinds(own)} for block, own in self._of("block").items()]

    def _of(self, key: str) -> dict[Any, list[Launch]]:
        """Launches by what they have for `key`, in the order of the first of each."""
        found = defaultdict[Any, list[Launch]](list)
        for each in self.launches:
            found[getattr(each, key)].append(each)
        return found


def _kinds(launches: Iterable[Launch]) -> dict[str, int]:
    moved: Counter[str] = Counter()
    for each in launches:
        moved[each.kind] += each.moved
    return {kind: moved[kind] for kind in KINDS if kind in moved}


def _sums(launches: Sequence[Launch]) -> dict[str, int]:
    return {"launches": len(launches), "moved_bytes": sum(each.moved for each in launches)}
