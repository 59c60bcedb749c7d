"""Whether what a bundle is compared with says anything: advice, that `build --strict` holds the bundle to.

A layer that begins at zero, as the last one of most diffusion transformers does, makes an output of zeros before it is
trained: every graph with such a layer at its end agrees with it, whatever is wrong in front.
"""

from __future__ import annotations

import numpy as np

from dsr_export.parity.golden.vectors import Golden
from dsr_export.reports.record import Check


def reference_checks(golden: Golden) -> list[Check]:
    """One check: every output differs between inputs."""
    names = next(iter(golden.cases.values())).outputs
    same = [name for name in names if _is_one_value(golden, name)]
    told = f"{', '.join(same)} of the reference is one value for all inputs, so that its parity shows nothing"
    share = (len(names) - len(same)) / len(names)
    problem = f"{told}: the weights may be untrained" if same else None
    return [Check(name="outputs_vary", value=share, limit=1.0, passed=not same, problem=problem)]


def _is_one_value(golden: Golden, name: str) -> bool:
    values = [case.outputs[name] for case in (*golden.cases.values(), *golden.further.values())]
    first = values[0].flat[0] if values[0].size else 0
    return all(np.array_equal(each, np.full_like(each, first)) for each in values)
