"""The table of states."""

import pytest

from gateway.lifecycle import TRANSITIONS, IllegalStep, State, Step, after


def test_a_version_is_loaded_answers_and_leaves():
    state = State.UNKNOWN
    for step in (Step.LOAD, Step.LOADED, Step.FAIL, Step.RECOVER, Step.UNLOAD, Step.UNLOADED):
        state = after(state, step)
    assert state is State.UNAVAILABLE


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_only_the_table_changes_a_state(state: State, step: Step):
    if (state, step) in TRANSITIONS:
        assert after(state, step) is TRANSITIONS[state, step]
    else:
        with pytest.raises(IllegalStep):
            after(state, step)


def test_every_state_can_be_left_and_reached():
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert set(TRANSITIONS.values()) == set(State) - {State.UNKNOWN}


def test_ready_is_reached_through_loading_or_from_what_was_ready_before():
    assert {state for (state, _), to in TRANSITIONS.items() if to is State.READY} == {State.LOADING, State.UNAVAILABLE}
