"""Both ends of a lane: what the gateway puts in comes out at the worker's end, and back, and never more than fits."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

from kernels.lanes import Lane, LanePort

FP32, BYTES = 11, 13
SLOT = 64 * 1024


@pytest.fixture
def lane():
    lane = Lane(SLOT)
    yield lane
    lane.close()


@pytest.fixture
def port(lane):
    return LanePort(*lane.fds)


def rows(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_what_is_put_in_comes_out_as_views_of_the_same_memory(lane, port):
    slot = lane.put([(0, FP32, (2, 2), rows(1, 2, 3, 4)), (3, BYTES, (1,), b"\x02\0\0\0hi")], rows=2, wanted=0b101)
    assert port.wait(0) == slot
    (index, first), (other, text) = port.inputs(slot)
    assert (index, first.tolist()) == (0, [[1, 2], [3, 4]])
    assert (other, text.tobytes(), port.input_shape(slot, 1)) == (3, b"\x02\0\0\0hi", (1,))
    assert (port.rows(slot), port.wanted(slot), port.input_datatype(slot, 0)) == (2, 0b101, FP32)
    port.complete(slot, [(0, FP32, (2, 2), first)], 5, 7)
    assert lane.get() == (slot, 0, "", [(0, FP32, (2, 2), rows(1, 2, 3, 4))])


def test_slots_are_used_in_turn_and_no_third_batch_fits(lane, port):
    given = [lane.put([(0, FP32, (1,), rows(value))], rows=1) for value in (1.0, 2.0)]
    assert lane.put([(0, FP32, (1,), rows(3.0))], rows=1) == -1
    taken = []
    for _ in given:
        taken.append(port.wait(0))
        port.complete(taken[-1], [], 0, 0)
    assert taken == given
    assert [lane.get()[0] for _ in given] == given
    assert lane.get() is None


def test_waiting_without_a_batch_times_out_and_a_nudge_wakes(lane, port):
    assert port.wait(0) == -2
    lane.nudge()
    assert port.wait(0) == -1
    assert port.wait(0) == -2


def test_a_nudge_and_a_batch_are_both_seen(lane, port):
    slot = lane.put([(0, FP32, (1,), rows(1.0))], rows=1)
    lane.nudge()
    assert port.wait(0) == -1
    assert port.wait(0) == slot


def test_a_failure_comes_back_with_its_code_and_text_cut_to_what_a_slot_holds(lane, port):
    slot = lane.put([(0, FP32, (1,), rows(1.0))], rows=1)
    port.fail(port.wait(0), 3, "no " * 1000)
    back, code, text, outputs = lane.get()
    assert (back, code, outputs) == (slot, 3, [])
    assert text == ("no " * 1000)[:1024]


def test_an_output_that_lies_in_the_slot_already_is_not_moved(lane, port):
    lane.put([(0, FP32, (4,), rows(1, 2, 3, 4))], rows=1)
    slot = port.wait(0)
    area = np.frombuffer(port.output_area(slot), "<f4")
    area[64:68] = [9, 8, 7, 6]
    port.complete(slot, [(0, FP32, (4,), area[64:68]), (1, FP32, (1,), np.array([5], "<f4"))], 0, 0)
    _, _, _, outputs = lane.get()
    assert [np.frombuffer(output[3], "<f4").tolist() for output in outputs] == [[9, 8, 7, 6], [5]]
    assert area[64:68].tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        ([(0, FP32, (SLOT,), b"\0" * (SLOT + 1))], "exceed"),
        ([(i, FP32, (1,), b"\0\0\0\0") for i in range(65)], "64 outputs"),
        ([(0, FP32, (1,) * 17, b"\0\0\0\0")], "17 dimensions"),
    ],
)
def test_more_than_a_slot_holds_is_refused_and_the_slot_can_still_be_answered(lane, port, outputs, what):
    lane.put([(0, FP32, (1,), rows(1.0))], rows=1)
    slot = port.wait(0)
    with pytest.raises(ValueError, match=what):
        port.complete(slot, outputs, 0, 0)
    port.fail(slot, 13, "too much")
    assert lane.get()[1] == 13


@pytest.mark.parametrize("shape", [(3,), (-1,), (2**62, 4)])
def test_an_output_whose_shape_is_not_its_size_is_not_believed(lane, port, shape):
    lane.put([(0, FP32, (1,), rows(1.0))], rows=1)
    slot = port.wait(0)
    port.complete(slot, [(0, FP32, shape, b"\0" * 8)], 0, 0)
    with pytest.raises(ValueError, match="not a tensor"):
        lane.get()


def test_steady_shapes_give_the_same_view_again(lane, port):
    seen = set()
    for _ in range(6):
        lane.put([(0, FP32, (1, 2), rows(1, 2))], rows=1)
        slot = port.wait(0)
        seen.add(id(port.inputs(slot)[0][1]))
        port.complete(slot, [], 0, 0)
        lane.get()
    assert len(seen) == 2


def test_close_is_idempotent_and_a_closed_lane_takes_nothing(lane):
    lane.close()
    lane.close()
    lane.nudge()
    assert lane.put([], rows=0) == -1
    assert lane.fds == (-1, -1, -1)


@pytest.mark.parametrize("size", [0, 100, 4097])
def test_a_slot_is_whole_pages(size):
    with pytest.raises(ValueError, match="multiple of 4096"):
        Lane(size)


def test_memory_that_is_no_lane_is_refused(tmp_path, lane):
    path = tmp_path / "other"
    path.write_bytes(b"\0" * 100_000)
    with path.open("r+b") as file, pytest.raises(ValueError, match="not a lane"):
        LanePort(file.fileno(), lane.doorbell, lane.completion)


# The worker is not trusted.


def test_nobody_can_take_memory_away_from_under_the_gateway(lane):
    with pytest.raises(PermissionError):
        os.ftruncate(lane.memfd, 4096)


def test_a_size_that_the_worker_wrote_into_the_header_moves_nothing(lane, port):
    os.pwrite(lane.memfd, (SLOT // 2).to_bytes(8, "little"), 8)
    lane.put([(0, FP32, (1,), rows(1.0))], rows=1)
    lane.put([(0, FP32, (1,), rows(2.0))], rows=1)
    assert [port.inputs(port.wait(0))[0][1].tolist() for _ in range(2)] == [[1.0], [2.0]]


def test_a_worker_that_does_not_answer_its_doorbell_does_not_hold_up_the_gateway(lane):
    with contextlib.suppress(OSError):
        os.set_blocking(lane.fds[1], True)
        os.write(lane.fds[1], (2**64 - 2).to_bytes(8, "little"))
    for _ in range(70_000):
        lane.nudge()


def test_a_worker_is_woken_when_the_gateway_has_gone(lane):
    port = LanePort(*map(os.dup, lane.fds))
    lane.close()
    assert port.wait(0) == -1


def test_an_output_that_is_copied_does_not_fall_on_one_that_is_in_place(lane, port):
    lane.put([(0, FP32, (4,), rows(1, 2, 3, 4))], rows=1)
    slot = port.wait(0)
    area = np.frombuffer(port.output_area(slot), "<f4")
    area[:4] = [9, 8, 7, 6]
    port.complete(slot, [(1, FP32, (1,), np.array([5], "<f4")), (0, FP32, (4,), area[:4])], 0, 0)
    _, _, _, outputs = lane.get()
    assert [np.frombuffer(output[3], "<f4").tolist() for output in outputs] == [[5], [9, 8, 7, 6]]
