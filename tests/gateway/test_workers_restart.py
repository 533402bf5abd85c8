"""When dead workers are started again: sooner or later always, later each time, and slowly once dying is a habit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.workers.restart import RestartPolicy

LIVES = st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), min_size=1, max_size=60)


def policy(jitter: float = 1.0, **changes: float) -> RestartPolicy:
    arguments = {"initial": 0.1, "maximum": 30.0, "window": 60.0} | changes
    max_deaths = int(arguments.pop("max_deaths", 5))
    return RestartPolicy(**arguments, max_deaths=max_deaths, jitter=lambda: jitter)


def test_delays_double_from_the_first_to_the_longest() -> None:
    patient = policy(max_deaths=100)
    delays = [patient.died(now=float(second), lived=0.5).delay for second in range(12)]
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == 30.0


def test_an_instance_that_lived_long_is_replaced_at_once_again() -> None:
    forgiving = policy()
    for second in range(4):
        forgiving.died(now=float(second), lived=0.0)
    restart = forgiving.died(now=1000.0, lived=60.0)
    assert restart.delay == 0.1
    assert not restart.is_failing


def test_too_many_deaths_in_the_window_are_failing_and_retried_slowly() -> None:
    strict = policy(max_deaths=3)
    restarts = [strict.died(now=float(second), lived=1.0) for second in range(3)]
    assert [restart.is_failing for restart in restarts] == [False, False, True]
    assert restarts[-1].delay == 30.0


def test_deaths_that_are_far_apart_are_never_failing() -> None:
    strict = policy(max_deaths=2)
    assert not any(strict.died(now=61.0 * death, lived=61.0).is_failing for death in range(50))


def test_a_failing_group_that_has_calmed_down_is_no_longer_failing() -> None:
    strict = policy(max_deaths=2)
    strict.died(now=0.0, lived=0.0)
    assert strict.died(now=1.0, lived=0.0).is_failing
    assert not strict.died(now=100.0, lived=70.0).is_failing


@given(lives=LIVES, jitter=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_zero_and_never_longer_than_the_longest(
    lives: list[tuple[float, float]], jitter: float
) -> None:
    any_policy, now = policy(jitter), 0.0
    for pause, lived in lives:
        now += pause
        assert 0.05 <= any_policy.died(now, lived).delay <= 30.0


@given(lives=LIVES)
def test_failing_says_exactly_that_the_window_holds_too_many_deaths(lives: list[tuple[float, float]]) -> None:
    any_policy, now, deaths = policy(), 0.0, list[float]()
    for pause, lived in lives:
        now += pause
        deaths.append(now)
        recent = sum(1 for death in deaths if death > now - 60.0)
        assert any_policy.died(now, lived).is_failing == (recent >= 5)


@given(deaths=st.integers(1, 5000))
def test_a_worker_that_dies_for_ever_costs_no_more_than_one_that_dies_often(deaths: int) -> None:
    endless = policy()
    for _ in range(deaths):
        restart = endless.died(now=0.0, lived=0.0)
    assert restart.delay <= 30.0
