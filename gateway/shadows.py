"""What shadows answer, compared with what was answered: on one thread beside the event loop, which only counts.

Copies wait for their comparison within the bounds of `Shadow`; what does not fit is dropped by the data plane and
counted there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Literal, NamedTuple

from gateway.comparison import Incomparable, difference
from gateway.rollouts.route import Shadow
from gateway.rollouts.tolerances import MAX_SAMPLES, Comparison, Disagreement
from kernels.deployment import Deployment
from kernels.mirror import Mirror, Pair

MAX_FAILURE = 240
"""Characters of what a shadow failed with that are kept."""
REST_SECONDS = 0.0002
Soon = Callable[[Callable[[], object]], object]
Judged = Disagreement | Literal["dropped", "unreadable"] | None
"""What came of a pair: None when both agree, and otherwise why nothing can be said of them."""
_log = logging.getLogger("sluice.shadows")


class ShadowCounts(NamedTuple):
    """What came of the copies of one model's requests to one shadow. Cumulative."""

    version: int
    mirrored: int
    """Requests that were to be copied: those that were compared, and those below, and those under way."""
    dropped: int
    """For want of room, or because the shadow was busy or not ready."""
    unpaired: int
    """With nothing to compare: the live request failed or its answer cannot be read, or the copy was turned away before
    it ran."""
    compared: int
    disagreed: int
    """Of those that were compared: beyond the tolerances, or failed by the shadow alone."""
    samples: tuple[Disagreement, ...]
    """What the latest of them differed in."""


class Shadows:
    """All shadows of one event loop.

    Args:
        call_soon: the loop's.
        call_from_thread: the same, from any thread.
        pool: where answers are compared.
    """

    def __init__(self, call_soon: Soon, call_from_thread: Soon, pool: Executor) -> None:
        self._call_soon, self._call_from_thread, self._pool = call_soon, call_from_thread, pool
        # By model: from a rollout's first shadow to its end.
        self._accounts: dict[str, dict[int, _Account]] = {}
        self._is_closed = False

    def aim(self, model: str, shadow: Shadow, target: Deployment | None) -> Mirror[Deployment]:
        """What copies the model's requests to the shadow from now on; `target` is None while it is not ready."""
        accounts = self._accounts.setdefault(model, {})
        account = accounts.get(shadow.version)
        if account is None:
            account = accounts[shadow.version] = _Account(shadow.version, self._call_soon, self._compare)
        self._stop(one for one in accounts.values() if one is not account)
        account.comparison = shadow.comparison
        account.mirror.aim(target, shadow.fraction, shadow.max_requests, shadow.max_bytes)
        return account.mirror

    def stop(self, model: str) -> None:
        """Nothing is copied any more. What is under way is compared and counted."""
        self._stop(self._accounts.get(model, {}).values())

    def end(self, model: str) -> None:
        """The same, and its counts are gone."""
        self.stop(model)
        self._accounts.pop(model, None)

    def counts(self, model: str) -> tuple[ShadowCounts, ...]:
        """One for each shadow that the model's rollout has had."""
        return tuple(account.counts() for account in self._accounts.get(model, {}).values())

    def close(self) -> None:
        """Compares no more. Waits for the one pair whose comparison has begun."""
        self._is_closed = True
        for model in list(self._accounts):
            self.end(model)
        self._pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _stop(accounts: Iterable[_Account]) -> None:
        for account in accounts:
            mirror = account.mirror
            mirror.aim(None, 0.0, mirror.max_requests, mirror.max_bytes)

    def _compare(self, account: _Account, pairs: list[Pair]) -> None:
        if self._is_closed:
            return
        try:
            future = self._pool.submit(self._judge, pairs, account.comparison)
        except RuntimeError:  # no thread is to be had: the room must not be lost as well
            account.drop(pairs)
            return
        future.add_done_callback(partial(self._compared, account, pairs))

    def _judge(self, pairs: Sequence[Pair], comparison: Comparison) -> list[Judged]:
        """In the pool's thread."""
        judged: list[Judged] = []
        for pair in pairs:
            if self._is_closed:
                break
            judged.append(_judge(pair, comparison))
            time.sleep(REST_SECONDS)  # the event loop must not wait for the interpreter longer than one pair takes
        return judged

    def _compared(self, account: _Account, pairs: list[Pair], future: Future[list[Judged]]) -> None:
        """In the pool's thread."""
        if not future.cancelled() and not self._is_closed:
            self._call_from_thread(partial(account.take, pairs, future.result()))


class _Account:
    """One shadow: its copies, and what came of their comparison."""

    def __init__(self, version: int, call_soon: Soon, compare: Callable[[_Account, list[Pair]], None]) -> None:
        self.version = version
        self.mirror: Mirror[Deployment] = Mirror(call_soon, partial(compare, self))
        self.comparison = Comparison()
        self.compared = self.disagreed = self.dropped = self.unreadable = 0
        self.samples: deque[Disagreement] = deque(maxlen=MAX_SAMPLES)

    def take(self, pairs: Sequence[Pair], judged: Sequence[Judged]) -> None:
        for pair, found in zip(pairs, judged, strict=True):
            self.mirror.release(pair)
            match found:
                case "dropped":
                    self.dropped += 1
                case "unreadable":
                    self.unreadable += 1
                case Disagreement():
                    self.disagreed += 1
                    self.samples.append(found)
        self.compared += sum(not isinstance(found, str) for found in judged)

    def drop(self, pairs: Sequence[Pair]) -> None:
        self.take(pairs, ["dropped"] * len(pairs))

    def counts(self) -> ShadowCounts:
        mirror = self.mirror
        return ShadowCounts(
            self.version, mirror.mirrored, mirror.dropped + self.dropped, mirror.unpaired + self.unreadable,
            self.compared, self.disagreed, tuple(self.samples),
        )  # fmt: skip


def _judge(pair: Pair, comparison: Comparison) -> Judged:
    """Nothing that an answer holds may end the thread, or keep the room of those that were taken with it."""
    id = pair.request_id.decode(errors="replace")
    if pair.shadow is None:
        failure = (pair.failure or b"").decode(errors="replace")[:MAX_FAILURE]
        return Disagreement(id, "", f"it failed: {failure}", "", "")
    try:
        found = difference(pair.live, pair.shadow, comparison)
    except Incomparable:
        return "unreadable"
    except Exception:
        _log.exception("answers of a shadow cannot be compared", extra={"action": "comparison-failed"})
        return "dropped"
    return None if found is None else Disagreement(id, *found)
