"""Connections to PostgreSQL that wait for no answer longer than is bearable.

The server bounds its statements by itself; nothing else notices one that keeps its connection and says no more.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

from psycopg import Connection, OperationalError
from psycopg.abc import PQGen

T = TypeVar("T")


class BoundedConnection(Connection[Any]):
    """Closed, with an OperationalError, when one answer takes longer than `answer_seconds`."""

    answer_seconds = 60.0

    def wait(self, gen: PQGen[T], *bounds: Any, **named_bounds: Any) -> T:
        try:
            return super().wait(_within(gen, self.answer_seconds), *bounds, **named_bounds)
        except _NoAnswer:
            self.pgconn.finish()  # a ROLLBACK would wait just as long
            raise


class _NoAnswer(OperationalError):
    pass


def _within(gen: PQGen[T], seconds: float) -> PQGen[T]:
    """The same steps, and an end to them. Whoever waits for the socket resumes them now and then with nothing."""
    until = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= until:
                raise _NoAnswer(f"no answer in {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
