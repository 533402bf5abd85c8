"""Reads a plan from YAML, JSON or a mapping: every key known, every value in its range, what is wrong named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.rollouts.plan import Plan


def read_plan(source: str | Mapping[str, Any]) -> Plan:
    """A document without a key is the default plan.

    Raises:
        InvalidPlan: with the path of the first thing that is wrong.
    """
    raise NotImplementedError


def to_plain(plan: Plan) -> dict[str, Any]:
    """The whole plan as JSON values that `read_plan` reads to an equal one."""
    raise NotImplementedError
