"""A number that a metrics provider is asked for again and again, and what the answers amount to.

Argo's words and rules: a measurement is successful, failed, inconclusive or an error, and limits on their counts
decide. Nothing here asks anybody.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["successful", "failed", "inconclusive", "error"]

_CONDITION = re.compile(r"\s*(?:result\s*)?(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of the result with a number."""

    operator: str
    number: float

    def holds(self, result: float) -> bool:
        match self.operator:
            case "<":
                return result < self.number
            case "<=":
                return result <= self.number
            case ">":
                return result > self.number
            case ">=":
                return result >= self.number
            case "==":
                return result == self.number
            case _:
                return result != self.number

    def __str__(self) -> str:
        return f"result {self.operator} {self.number!r}"


def read_condition(text: str) -> Condition:
    """Reads `result >= 0.95`, or without the word. Raises ValueError."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError("a comparison such as 'result >= 0.95'")
    return Condition(match[1], float(match[2]))


@dataclass(frozen=True)
class Analysis:
    """One query. `interval` in seconds; `count` measurements end an analysis step (a guard's go on)."""

    name: str
    query: str
    success: Condition | None = None
    failure: Condition | None = None
    interval: float = 60.0
    count: int = 1
    failure_limit: int = 0
    inconclusive_limit: int = 0
    consecutive_error_limit: int = 4

    def outcome(self, result: float | None) -> Outcome:
        """Of one measurement; None is an answer without data, and as inconclusive as one that is not a number."""
        if result is None or math.isnan(result):
            return "inconclusive"
        if self.failure is not None and self.failure.holds(result):
            return "failed"
        if self.success is not None and self.success.holds(result):
            return "successful"
        if self.success is not None and self.failure is not None:
            return "inconclusive"
        return "failed" if self.success is not None else "successful"


@dataclass(frozen=True)
class AnalysisRun:
    """The measurements of one analysis so far. `due_in`: seconds of the rollout's own time until the next one."""

    successful: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors: int = 0
    """In a row."""
    due_in: float = 0.0

    def after(self, outcome: Outcome) -> AnalysisRun:
        errors = self.errors + 1 if outcome == "error" else 0
        if outcome == "error":
            return replace(self, errors=errors)
        counted = {"successful": self.successful, "failed": self.failed, "inconclusive": self.inconclusive}
        counted[outcome] += 1
        return replace(self, errors=errors, **counted)

    def verdict(self, analysis: Analysis) -> Outcome | None:
        """What the analysis comes to; None while that is open. The worst that a limit says."""
        if self.failed > analysis.failure_limit:
            return "failed"
        if self.errors > analysis.consecutive_error_limit:
            return "error"
        if self.inconclusive > analysis.inconclusive_limit:
            return "inconclusive"
        done = self.successful + self.failed + self.inconclusive >= analysis.count
        return "successful" if done else None
