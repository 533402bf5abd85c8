"""When a dead worker is started again, and when dying has become a habit. Decides from what it is told; reads no
clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.settings import WorkersSettings


@dataclass(frozen=True)
class Restart:
    """`delay` seconds from now; `is_failing` when the deaths have become too many for the version to be called
    available."""

    delay: float
    is_failing: bool


class RestartPolicy:
    """Exponential backoff with jitter over the deaths of one group of instances.

    The first death after a quiet time is answered after about `initial` seconds, each further one after twice as
    long, up to `maximum`. An instance that lived for `window` seconds has shown that it can: the count starts again.
    `max_deaths` deaths within `window` seconds are failing, and then the pause is `maximum`.

    Args:
        jitter: returns a number in [0, 1); delays are between half of the nominal one and all of it.
    """

    def __init__(
        self, *, initial: float, maximum: float, window: float, max_deaths: int, jitter: Callable[[], float]
    ) -> None:
        self._initial, self._maximum, self._window, self._max_deaths = initial, maximum, window, max_deaths
        self._jitter = jitter
        # Times of the deaths within the window, oldest first, and deaths since the last quiet time. Changed by `died`
        # alone.
        self._deaths: deque[float] = deque()
        self._streak = 0

    @classmethod
    def from_settings(cls, settings: WorkersSettings, jitter: Callable[[], float]) -> RestartPolicy:
        return cls(
            initial=settings.restart_backoff_initial_seconds,
            maximum=settings.restart_backoff_max_seconds,
            window=settings.restart_window_seconds,
            max_deaths=settings.max_restarts_in_window,
            jitter=jitter,
        )

    def died(self, now: float, lived: float) -> Restart:
        """An instance ended after `lived` seconds of being up; 0 when it never was."""
        if lived >= self._window:
            self._streak = 0
        self._streak += 1
        self._deaths.append(now)
        while self._deaths and self._deaths[0] <= now - self._window:
            self._deaths.popleft()
        is_failing = len(self._deaths) >= self._max_deaths
        # The exponent is bounded before it is used: a long streak must not overflow.
        nominal = self._maximum if is_failing else min(self._maximum, self._initial * 2.0 ** min(self._streak - 1, 64))
        return Restart(nominal * (0.5 + 0.5 * self._jitter()), is_failing)
