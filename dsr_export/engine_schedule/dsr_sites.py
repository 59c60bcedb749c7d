"""What detection, replacement and shifts of neurons cost in an engine, by the names of the nodes they became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsr_export.engine_schedule.record import Launch
from dsr_export.engine_schedule.roofline import estimates
from graphs.names import is_lowered, made_name, made_parts

_CAST = made_name("type", "cast", "")


def site_costs(launches: Sequence[Launch]) -> dict[str, Any] | None:
    """`launches`, `moved_bytes` and `estimates` (device -> times) of the kernels that do nothing but a site's work.

    `sites` counts the sites, `shared_launches` the kernels that do some of it beside other work, as the norm behind a
    site does: they would be there without it, and are not in the sums. None where the graph has no site.
    """
    sites = {part.site for each in launches for node in each.nodes if is_lowered(node) and (part := made_parts(node))}
    if not sites:
        return None
    touched = [each for each in launches if any(map(is_lowered, each.nodes))]
    own = [each for each in touched if all(is_lowered(node) or node.startswith(_CAST) for node in each.nodes)]
    return {
        "sites": len(sites),
        "launches": len(own),
        "shared_launches": len(touched) - len(own),
        "moved_bytes": sum(each.moved for each in own),
        "estimates": estimates(own, of=launches),
    }
