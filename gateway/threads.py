"""The end of a pool of threads, for which an event loop waits without being held up by it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor


async def finish(pool: ThreadPoolExecutor) -> None:
    """Takes no more work, drops what has not begun, and returns when what has begun is done. May be cancelled at any
    time: a thread that hangs, such as one in a system call on a file server that is gone, then stays."""
    finished: Future[None] = Future()

    def wait() -> None:
        pool.shutdown(wait=True, cancel_futures=True)
        if finished.set_running_or_notify_cancel():
            finished.set_result(None)

    threading.Thread(target=wait, name="end of the pool", daemon=True).start()
    await asyncio.wrap_future(finished)
