"""Who leaves for whom, and who does not fit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.memory_budget import Resident, Room, make_room, within

SIZES = st.integers(0, 100)
RESIDENTS = st.lists(
    st.builds(
        Resident,
        st.uuids().map(str),
        SIZES,
        st.just(0) | SIZES,
        st.none() | st.floats(0, 1000),
    ),
    max_size=8,
)


def test_without_a_limit_everything_fits():
    assert make_room(1 << 60, 0, [Resident("a", 1 << 60)]).is_there


def test_the_one_used_longest_ago_leaves_and_no_more_than_it_takes():
    residents = [Resident("new", 40, idle_since=3.0), Resident("old", 40, idle_since=1.0), Resident("pinned", 10)]
    assert make_room(10, 100, residents) == Room(is_there=True)
    assert make_room(20, 100, residents) == Room(evicted=("old",))
    assert make_room(60, 100, residents) == Room(evicted=("old", "new"))


def test_what_leaves_already_is_waited_for():
    assert make_room(50, 100, [Resident("leaving", 0, leaving_bytes=60)]) == Room()


def test_what_cannot_fit_evicts_nobody_and_says_why():
    room = make_room(95, 100, [Resident("idle", 40, idle_since=1.0), Resident("busy", 10)])
    assert (room.is_there, room.evicted) == (False, ())
    assert room.refusal == (
        "it needs 95 bytes of memory; models may take 100, and 10 are taken by those that are in use or loaded for good"
    )


def test_what_has_grown_makes_the_idle_leave():
    residents = [Resident("a", 60, idle_since=2.0), Resident("b", 60, idle_since=1.0), Resident("c", 10)]
    assert within(70, residents) == ("b",)
    assert within(200, residents) == within(0, residents) == ()


@settings(deadline=None)
@given(st.integers(0, 150), st.integers(1, 200), RESIDENTS, SIZES)
def test_whatever_is_decided_fits_and_only_the_idle_leave(need, limit, residents, reserved):
    room = make_room(need, limit, residents, reserved)
    idle = {each.model: each for each in residents if each.idle_since is not None}
    staying = sum(each.nbytes for each in residents) + reserved
    assert idle.keys() >= set(room.evicted)
    assert room.is_there + bool(room.evicted) + bool(room.refusal) <= 1
    freed = sum(idle[name].nbytes for name in room.evicted)
    if room.is_there:
        assert staying + sum(each.leaving_bytes for each in residents) + need <= limit
    elif room.refusal:
        assert staying - sum(each.nbytes for each in idle.values()) + need > limit
    else:
        assert staying - freed + need <= limit
        last = idle[room.evicted[-1]] if room.evicted else None
        assert last is None or staying - freed + last.nbytes + need > limit
        kept = [each.idle_since for name, each in idle.items() if name not in room.evicted and each.nbytes]
        assert all(idle[name].idle_since <= min(kept, default=1e9) for name in room.evicted)
