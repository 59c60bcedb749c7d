"""`ParityRow`: one comparison with its verdict, as it stands in a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsr_export.parity.metrics import Comparison
from dsr_export.parity.tolerances import Tolerance


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """`check` is `batch-N`, `fused`, `given`, `special`, `rows`, `determinism`, `batch-invariance` or `trajectory`;
    of a graph that holds a whole step of the sampler, `step-N` or `trajectory`."""

    check: str
    output: str
    runtime: str
    reference: str
    comparison: Comparison
    tolerance: Tolerance

    @classmethod
    def of(
        cls, check: str, output: str, runtime: str, reference: str, comparison: Comparison, tolerance: Tolerance
    ) -> ParityRow:
        """The fields in order."""
        return cls(
            check=check, output=output, runtime=runtime, reference=reference, comparison=comparison, tolerance=tolerance
        )

    @property
    def passed(self) -> bool:
        return self.comparison.within(self.tolerance)

    def as_dict(self) -> dict[str, Any]:
        figures = self.comparison.as_dict()
        names = {"check": self.check, "output": self.output, "runtime": self.runtime, "reference": self.reference}
        return {**names, **figures, "tolerance": self.tolerance.as_dict(), "passed": self.passed}
