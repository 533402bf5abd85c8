"""Background tasks that may end in one way only."""

from __future__ import annotations

import asyncio


def report_unexpected_end(task: asyncio.Task[None]) -> None:
    """A done callback for a task that runs until it is cancelled: anything else is a bug, and must not pass unheard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        message = f"this is a bug: task '{task.get_name()}' ended"
        context = {"message": message, "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
