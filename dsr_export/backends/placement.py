"""On which provider the nodes of a session run: told by ONNX Runtime when it is opened, or by a profile of its first
run where its version does not tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dsr_export.backends.host_sizes import host_sizes
from dsr_export.storage.leftovers import scratch_folder
from graphs.files import load_model

SHOWN = 5
_TIMED = "_kernel_time"  # what a profile calls the event of a node


def tells_places() -> bool:
    """Whether this version tells the places of nodes when a session is opened (1.24 and later)."""
    import onnxruntime

    return getattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info", None) is not None


def told_elsewhere(session: Any, provider: str, model: Path | bytes) -> tuple[str, ...]:
    """Names (or kinds) of nodes on any other provider: not of those that make sizes, which the host needs itself."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != provider]
    elsewhere = [node for part in parts for node in part.get_nodes()]
    if not elsewhere:
        return ()
    sizes = host_sizes(load_model(model, weights=False) if isinstance(model, Path) else model)
    return tuple(node.name or node.op_type for node in elsewhere if node.name not in sizes and node.op_type != "Shape")


class Profile:
    """The profile of a session's first run; `prefix` is where it is written, in a folder that goes with `close`."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self.prefix = self._held.enter_context(scratch_folder("profile")) / "run"

    def close(self) -> None:
        self._held.close()

    def elsewhere(self, session: Any, provider: str) -> tuple[str, ...]:
        """As `told_elsewhere`, of the run that was just made. Profiling ends, and later runs cost nothing."""
        path = Path(session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        ran = [each for each in events if each.get("cat") == "Node" and each["name"].endswith(_TIMED)]
        found = [each for each in ran if each["args"].get("provider") != provider and not _makes_sizes(each["args"])]
        return tuple(dict.fromkeys(each["name"].removesuffix(_TIMED) or each["args"]["op_name"] for each in found))


def _makes_sizes(told: Mapping[str, Any]) -> bool:
    """Whether all that a node made is a shape, or a part of one."""
    made = [(kind, shape) for output in told.get("output_type_shape", []) for kind, shape in output.items()]
    return all(kind == "int64" and len(shape) <= 1 for kind, shape in made)


def placement_words(elsewhere: tuple[str, ...]) -> str | None:
    """What there is to say of nodes on the CPU."""
    if not elsewhere:
        return None
    more = f" and {len(elsewhere) - SHOWN} more" if len(elsewhere) > SHOWN else ""
    return f"{len(elsewhere)} nodes run on the CPU, without a kernel for CUDA: {', '.join(elsewhere[:SHOWN])}{more}"
