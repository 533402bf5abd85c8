"""What a rollout came to, for machines: exit codes, and JUnit XML in which each guard is a test case."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any
from xml.etree import ElementTree


class Outcome(IntEnum):
    """The exit codes of `sluice rollout start --wait`, and of whatever else waits for a rollout."""

    PROMOTED = 0
    ROLLED_BACK = 2
    INCONCLUSIVE = 3


OUTCOMES = {"promoted": Outcome.PROMOTED, "rolled-back": Outcome.ROLLED_BACK, "inconclusive": Outcome.INCONCLUSIVE}


def outcome_of(rollout: dict[str, Any]) -> Outcome | None:
    """None while nobody can tell."""
    return OUTCOMES.get(rollout["outcome"])


def decided(rollout: dict[str, Any]) -> Outcome:
    """At the end of a wait: what nobody could tell until then is inconclusive."""
    outcome = outcome_of(rollout)
    return Outcome.INCONCLUSIVE if outcome is None else outcome


def to_junit(rollout: dict[str, Any], outcome: Outcome, seconds: float) -> bytes:
    """One suite: a case for each guard, which fails when it fired, and one for the whole, which fails when the version
    was rolled back and is an error when nobody could tell."""
    suite = ElementTree.Element("testsuite", name=f"rollout of {rollout['model']} to version {rollout['to']}")
    classname = f"sluice.rollout.{rollout['model']}"
    failures = 0
    for guard in rollout["guards"]:
        case = ElementTree.SubElement(suite, "testcase", classname=classname, name=f"guard {guard['name']}")
        if guard["fired"]:
            failures += 1
            text = f"evidence {guard['evidence']:.4g} against a threshold of {guard['threshold']:.4g}"
            ElementTree.SubElement(case, "failure", message=text)
    whole = ElementTree.SubElement(suite, "testcase", classname=classname, name="outcome", time=f"{seconds:.3f}")
    if outcome is Outcome.ROLLED_BACK:
        failures += 1
        ElementTree.SubElement(whole, "failure", message=f"rolled back: {rollout['reason']}")
    elif outcome is Outcome.INCONCLUSIVE:
        ElementTree.SubElement(whole, "error", message=f"inconclusive: {rollout['reason'] or 'time is over'}")
    ElementTree.SubElement(suite, "system-out").text = json.dumps(rollout, indent=2)
    errors = int(outcome is Outcome.INCONCLUSIVE)
    for name, value in (("tests", len(rollout["guards"]) + 1), ("failures", failures), ("errors", errors)):
        suite.set(name, str(value))
    suite.set("time", f"{seconds:.3f}")
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
