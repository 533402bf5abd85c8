"""A rollout as a person reads it: where it is, how much evidence there is against what threshold, and both arms."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.models import duration
from gateway.cli.options import table, when

BAR_WIDTH = 30
STYLES = {"promoted": "green", "rolled-back": "bold red", "inconclusive": "yellow"}


def to_view(rollout: dict[str, Any]) -> RenderableType:
    """Everything about one rollout, in a few lines."""
    return Group(_head(rollout), Text(), _arms(rollout), Text(), _guards(rollout))


def to_list(rollouts: list[dict[str, Any]]) -> Table:
    rows = table(("ID", "FROM", "TO", "STATE", "WEIGHT", "STARTED", "BY", "REASON"), right=("FROM", "TO", "WEIGHT"))
    for one in rollouts:
        state = Text(one["state"], style_of(one))
        weight = f"{one['weight']:.0%}"
        started = when(one["created_at"])
        rows.add_row(
            Text(one["id"], "bold"), str(one["from"]), str(one["to"]), state, weight, started, one["created_by"],
            one["reason"],
        )  # fmt: skip
    return rows


def to_history(entries: list[dict[str, Any]]) -> Table:
    rows = table(("WHEN", "WHAT", "STATE", "BY", "WHY"))
    for entry in entries:
        what = entry["action"].removeprefix("rollout.")
        rows.add_row(when(entry["at"]), what, str(entry["after"].get("state", "")), entry["actor"], entry["reason"])
    return rows


def style_of(rollout: dict[str, Any]) -> str:
    return STYLES.get(rollout["outcome"], "cyan")


def _head(rollout: dict[str, Any]) -> Text:
    head = Text.assemble(
        (rollout["model"], "bold"),
        f"  {rollout['from']} → {rollout['to']}   ",
        (rollout["state"], style_of(rollout)),
        (f"   step {rollout['step']} of {rollout['steps']}   rollout {rollout['id']}", "dim"),
    )
    if rollout["reason"]:
        head.append(f"\n{rollout['reason']}")
    return head


def _arms(rollout: dict[str, Any]) -> Table:
    rows = table(("", "VERSION", "WEIGHT", "", "REQUESTS", "FAILED", "P50", "P99"), right=("VERSION", "WEIGHT",
                 "REQUESTS", "FAILED", "P50", "P99"))  # fmt: skip
    for name, style in (("stable", "green"), ("canary", "yellow")):
        arm = rollout[name]
        rows.add_row(
            name, str(arm["version"]), f"{arm['weight']:.1%}", bar(arm["weight"], style), f"{arm['requests']:,}",
            Text(f"{arm['failed']:,}", "red" if arm["failed"] else ""), duration(arm.get("p50_seconds")),
            duration(arm.get("p99_seconds")),
        )  # fmt: skip
    return rows


def _guards(rollout: dict[str, Any]) -> Table:
    rows = table(("GUARD", "EVIDENCE", "THRESHOLD", ""), right=("EVIDENCE", "THRESHOLD"))
    for guard in rollout["guards"]:
        share = closeness(guard["evidence"], guard["threshold"])
        style = "bold red" if guard["fired"] else "yellow" if share > 0.5 else "green"
        evidence = Text(f"{guard['evidence']:.3g}", style)
        rows.add_row(guard["name"], evidence, f"{guard['threshold']:.3g}", bar(share, style))
    return rows


def closeness(evidence: float, threshold: float) -> float:
    """How far the evidence is on its way from 1 (none) to the threshold, as factors count: 10 is halfway to 100."""
    if evidence <= 1:
        return 0.0
    return 1.0 if evidence >= threshold else math.log(evidence) / math.log(threshold)


def bar(share: float, style: str) -> Text:
    filled = round(max(0.0, min(1.0, share)) * BAR_WIDTH)
    return Text.assemble(("█" * filled, style), ("░" * (BAR_WIDTH - filled), "dim"))
