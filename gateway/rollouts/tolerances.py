"""How far a shadow's answers may be from the live ones, as a plan says it, and what is kept of one that was further
away. Values alone: arrays are compared by `gateway.comparison`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Distance = Literal["totalVariation", "jensenShannon"]


@dataclass(frozen=True)
class Tolerance:
    """What one output is held to: all that is named here. Texts must be equal whatever is named."""

    rtol: float | None = None
    """Of the live value; None: as is usual for the datatype."""
    atol: float | None = None
    top_k: int | None = None
    """The places of the so many greatest values along the last axis are the same, in any order. 1 is argmax."""
    distance: tuple[Distance, float] | None = None
    """Between distributions along the last axis, and the most that it may be."""

    @property
    def is_by_value(self) -> bool:
        """Whether each value is held to a tolerance of its own: if it is named, or nothing else is."""
        is_named = self.rtol is not None or self.atol is not None
        return is_named or (self.top_k is None and self.distance is None)


@dataclass(frozen=True)
class Comparison:
    """What all outputs are held to. `outputs`: those with a tolerance of their own, by name."""

    default: Tolerance = Tolerance()
    outputs: tuple[tuple[str, Tolerance], ...] = ()

    def of(self, output: str) -> Tolerance:
        return dict(self.outputs).get(output, self.default)


MAX_SAMPLES = 8
"""Disagreements that are kept, the latest."""


class Disagreement(NamedTuple):
    """One answer of a shadow that was too far away. Short texts; no whole tensors."""

    request_id: str
    """What the caller named its request; empty when it did not."""
    output: str
    """Empty when the shadow failed the request."""
    difference: str
    live: str
    shadow: str

    def to_plain(self) -> dict[str, Any]:
        """JSON values."""
        return self._asdict()


def fault(tolerance: Tolerance, datatype: str, shape: tuple[int, ...]) -> str:
    """Why an output that is declared so cannot be held to the tolerance; empty when it can. -1 is a free dimension."""
    if datatype == "BYTES" and tolerance != Tolerance():
        return "holds texts, which must be equal"
    size = shape[-1] if shape else 1
    if tolerance.top_k is not None and 0 <= size <= tolerance.top_k:
        return f"has only {size} values along its last axis: the greatest {tolerance.top_k} are always the same"
    return ""
