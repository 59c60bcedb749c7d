"""The one grammar of node names: `<module path>/<Op>` as traced, and `dsr/<stage>/<site>/<role>` for what we make.

A site is the module that a node stands in, and may hold slashes; a role is what it is for, distinct in its site.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

_FIRST = "dsr"
_MADE = re.compile(rf"{_FIRST}/(?P<stage>[^/]+)/(?P<site>.+)/(?P<role>[^/]+?)(_(?P<count>\d+))?")
_STAGE = re.compile(rf"^{_FIRST}/[^/]*/")
ROOT = "root"
"""The module of what stands in none."""


class Named(Protocol):
    """A node of either library."""

    name: str


@dataclass(frozen=True)
class MadeName:
    """The parts of a name that `made_name` gives; `count` is 1 for the first of a role, and 2 for `role_2`."""

    stage: str
    site: str
    role: str
    count: int = 1


def made_name(stage: str, site: str, role: str, count: int = 1) -> str:
    """The name of a node or constant of ours."""
    return f"{_FIRST}/{stage}/{site}/{role}" + (f"_{count}" if count > 1 else "")


def changed_name(stage: str, name: str, index: int | None = None) -> str:
    """The name of what takes the place of a constant of the node `name`, or of its input `index`."""
    return f"{_FIRST}/{stage}/{name}" + ("" if index is None else f"/{index}")


def made_parts(name: str) -> MadeName | None:
    """The parts of a name of ours; None for any other."""
    found = _MADE.fullmatch(name)
    if found is None:
        return None
    return MadeName(found["stage"], found["site"], found["role"], int(found["count"] or 1))


def made_role(name: str, stage: str) -> str | None:
    """The role in a name of ours of that stage; None for any other."""
    made = made_parts(name)
    return made.role if made is not None and made.stage == stage else None


def is_made(name: str, stage: str | None = None) -> bool:
    """Whether it is a name of ours, of that stage where one is named."""
    return name.startswith(f"{_FIRST}/" if stage is None else f"{_FIRST}/{stage}/")


def is_lowered(name: str) -> bool:
    """Whether it is of a lowered site: detection, replacement, and the shift of register neurons.

    What is only inserted (rows appended and dropped) is not.
    """
    return is_made(name, "lower")


def site_of(node: Named) -> str:
    """The module a node belongs to: `blocks.3` of `blocks.3/ReplaceOutliers`, and of `dsr/insert/blocks.3/...` too."""
    return _STAGE.sub("", str(node.name)).rsplit("/", 1)[0]


def own_name(node: Named) -> str:
    """A node's name within its module: `Mul_1` of `blocks.3.norm1/Mul_1`. What replaces it may carry it on."""
    return str(node.name).rsplit("/", 1)[-1]


def module_of(node: str) -> str:
    """The PyTorch module path in a node name: `blocks.3.attn/MatMul_2`, or ours, `dsr/lower/blocks.3/topk`."""
    parts = node.split("/")
    return "/".join(parts[2:-1] if parts[0] == _FIRST else parts[:-1]) or ROOT
