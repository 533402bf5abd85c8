"""A few threads that never keep the process alive: for calls into sources and stores, which may hang for good.

`concurrent.futures` joins its threads when the interpreter ends; these are left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """Runs calls on at most `threads` threads, in the order in which they came. Threads start when they are needed."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit, self._name = threads, name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        # Changed under the lock.
        self._lock = threading.Lock()
        self._started = 0
        self._pending = 0
        self._is_closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """The outcome of the call. RuntimeError after `close`."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("closed")
            self._pending += 1
            if self._started < min(self._limit, self._pending):
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True).start()
            self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Calls that wait are cancelled, those that run are left to themselves. Idempotent."""
        with self._lock:
            self._is_closed = True
            while not self._calls.empty():
                if (waiting := self._calls.get()) is not None:
                    waiting[0].cancel()
            for _ in range(self._started):
                self._calls.put(None)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            future, call = given
            if future.set_running_or_notify_cancel():
                try:
                    outcome = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(outcome)
            with self._lock:
                self._pending -= 1
            del given, future, call
