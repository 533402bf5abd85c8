"""The dispatcher over a real lane whose worker is the test's own hand: requests go in as bytes and come out so."""

from __future__ import annotations

import asyncio
import math
import os
import select
import subprocess
import sys
import time

import numpy as np
import pytest
from dispatch_bench import (
    BYTES,
    CANCELLED,
    DEADLINE,
    EXHAUSTED,
    FP32,
    INTERNAL,
    INVALID,
    NOT_FOUND,
    OK,
    SLOT,
    UNAVAILABLE,
    Bench,
    fail,
    message,
    tensor,
)

from gateway.pb import inference_pb2 as pb
from kernels.dispatch import Dispatcher
from kernels.http1 import Http1Limits, Http1Protocol
from kernels.local import LocalCall
from kernels.routes import ModelRoute, RouteTable


@pytest.fixture
def bench():
    return Bench()


def test_requests_of_one_wake_up_run_as_one_batch_and_each_gets_its_own_rows(bench):
    answers = [bench.send(message([[i, i]] * (i + 1), identity=str(i))) for i in range(3)]
    bench.settle()
    sizes = []
    assert bench.work(lambda port, slot: (sizes.append(port.rows(slot)), bench.double(port, slot)))
    assert sizes == [6]
    for i, answer in enumerate(answers):
        assert (answer.code, answer.body.id, answer.body.model_version) == (OK, str(i), "1")
        assert answer.values == [[2 * i, 2 * i]] * (i + 1)
    assert bench.deployment.in_flight == bench.dispatcher.in_flight == 0


def test_a_batch_never_has_more_rows_than_allowed(bench):
    answers = [bench.send(message([[i, i]] * 3)) for i in range(6)]
    bench.settle()
    sizes = []
    while bench.work(lambda port, slot: (sizes.append(port.rows(slot)), bench.double(port, slot))):
        bench.settle()
    assert sum(sizes) == 18
    assert max(sizes) <= 8
    assert [answer.values[0][0] for answer in answers] == [0, 2, 4, 6, 8, 10]


def test_different_shapes_do_not_share_a_batch():
    bench = Bench([tensor("x", shape=(-1, -1))], [tensor("y", shape=(-1, -1))])
    narrow, wide = bench.send(message([[1]])), bench.send(message([[1, 2]]))
    bench.settle()
    while bench.work():
        pass
    assert (narrow.values, wide.values) == ([[2]], [[2, 4]])


def test_a_failed_batch_is_run_again_one_by_one_so_that_only_the_one_at_fault_fails(bench):
    good, bad, other = (bench.send(message([[value, 0]])) for value in (1, 13, 3))

    def picky(port, slot):
        ((_, x),) = port.inputs(slot)
        (fail(text="thirteen") if 13 in x else bench.double)(port, slot)

    bench.settle()
    while bench.work(picky):
        pass
    assert (good.code, other.code) == (OK, OK)
    assert (bad.code, bad.text) == (INVALID, "thirteen")
    assert bench.deployment.meters.failure_counts()[2] == 1


def test_a_cancelled_member_of_a_running_batch_does_not_touch_the_others(bench):
    first, gone, last = (bench.send(message([[value, 0]])) for value in (1, 2, 3))
    bench.settle()
    gone.call.cancel()
    assert bench.work()
    assert (first.values, gone.code, last.values) == ([[2, 0]], None, [[6, 0]])
    assert bench.deployment.meters.requests(1)[CANCELLED] == 1
    assert bench.dispatcher.in_flight == 0


def test_a_cancelled_request_in_the_queue_never_runs(bench):
    gone, stays = bench.send(message([[1, 0]])), bench.send(message([[2, 0]]))
    gone.call.cancel()
    gone.call.cancel()
    bench.settle()
    sizes = []
    bench.work(lambda port, slot: (sizes.append(port.rows(slot)), bench.double(port, slot)))
    assert (sizes, gone.code, stays.values) == ([1], None, [[4, 0]])


def test_when_a_worker_dies_its_batch_runs_elsewhere_and_nobody_notices():
    bench = Bench(lanes=2)
    answers = [bench.send(message([[value, 0]])) for value in range(3)]
    bench.settle()
    dead, alive = bench.lanes
    assert bench.ports[dead].wait(0) >= 0  # it has begun
    bench.die(dead)
    while bench.work(lane=alive):
        pass
    assert [answer.values for answer in answers] == [[[2 * value, 0]] for value in range(3)]


def test_with_no_worker_left_requests_wait_for_the_next_one(bench):
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    bench.die(bench.lanes[0])
    bench.settle()
    assert answer.code is None
    bench.lanes.append(bench.attach())
    assert bench.work()
    assert answer.values == [[2, 2]]


def test_a_request_that_kills_every_worker_is_given_up_after_three_and_the_next_one_is_served(bench):
    killer = bench.send(message([[6, 6]]))
    bench.settle()
    deaths = 0
    while killer.code is None:
        assert bench.ports[bench.lanes[0]].wait(0) >= 0
        bench.die(bench.lanes[0])
        deaths += 1
        bench.lanes.append(bench.attach())
    assert (deaths, killer.code) == (3, UNAVAILABLE)
    innocent = bench.send(message([[1, 1]]))
    bench.settle()
    assert bench.work()
    assert innocent.values == [[2, 2]]


def test_a_request_that_may_run_once_only_is_not_run_again():
    bench = Bench(idempotent=False)
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    bench.die(bench.lanes[0])
    assert (answer.code, answer.text) == (UNAVAILABLE, "the worker that ran the request died")


def test_what_a_worker_had_finished_before_it_died_counts(bench):
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    port = bench.ports[bench.lanes[0]]
    bench.double(port, port.wait(0))
    bench.die(bench.lanes[0])
    assert answer.values == [[2, 2]]


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([], "missing"),
        ([(0, FP32, (2, 2), np.zeros((2, 2), "<f4"))], "other rows"),
        ([(0, 12, (1, 2), np.zeros((1, 2), "<f8"))], "other datatype"),
        ([(0, FP32, (), np.zeros((), "<f4"))], "no rows"),
        ([(0, FP32, (1, 2), np.zeros((1, 2), "<f4"))] * 2, "twice"),
        ([(63, FP32, (1, 2), np.zeros((1, 2), "<f4"))], "another"),
    ],
)
def test_outputs_that_do_not_fit_the_signature_are_an_internal_error(bench, outputs, why):
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    assert bench.work(lambda port, slot: port.complete(slot, outputs, 0, 0))
    assert (answer.code, answer.text) == (INTERNAL, "the model gave outputs that do not fit its signature")


def test_bytes_outputs_are_dealt_out_by_their_lengths():
    bench = Bench(outputs=[tensor("y", "BYTES", (-1, 1))])
    answers = [bench.send(message([[value, 0]])) for value in (1, 2)]
    bench.settle()
    packed = b"".join(len(text).to_bytes(4, "little") + text for text in (b"one", b"twice"))
    bench.work(lambda port, slot: port.complete(slot, [(0, BYTES, (2, 1), packed)], 0, 0))
    assert [answer.body.raw_output_contents[0] for answer in answers] == [b"\3\0\0\0one", b"\5\0\0\0twice"]


def test_bytes_outputs_that_end_early_fail_the_member_they_fail(bench):
    bench = Bench(outputs=[tensor("y", "BYTES", (-1, 1))])
    first, second = (bench.send(message([[value, 0]])) for value in (1, 2))
    bench.settle()
    packed = b"\3\0\0\0one" + b"\xff\0\0\0x"
    bench.work(lambda port, slot: port.complete(slot, [(0, BYTES, (2, 1), packed)], 0, 0))
    assert (first.code, second.code) == (OK, INTERNAL)


def test_only_the_outputs_asked_for_come_back_in_the_order_asked_for():
    bench = Bench(outputs=[tensor("y"), tensor("z", index=1)])
    answer = bench.send(message([[1, 1]], outputs=[("z", 0), ("y", 0)]))
    alone = bench.send(message([[1, 1]], outputs=[("z", 0)]))
    wanted = []

    def act(port, slot):
        wanted.append(port.wanted(slot))
        ((_, x),) = port.inputs(slot)
        given = [(0, FP32, x.shape, x), (1, FP32, x.shape, x * 3)]
        port.complete(slot, [one for one in given if port.wanted(slot) >> one[0] & 1], 0, 0)

    bench.settle()
    while bench.work(act):
        pass
    assert sorted(wanted) == [0b10, 0b11]
    assert [output.name for output in answer.body.outputs] == ["z", "y"]
    assert (answer.values, alone.values) == ([[3, 3]], [[3, 3]])


def test_classification_gives_the_highest_with_index_and_label():
    bench = Bench(outputs=[tensor("y", labels=("ham", "spam"))])
    answer = bench.send(message([[0.25, 0.5], [3, 1]], outputs=[("y", 2)]))
    bench.settle()
    bench.work()
    (output,) = answer.body.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    raw = answer.body.raw_output_contents[0]
    texts = [b"1.000000:1:spam", b"0.500000:0:ham", b"6.000000:0:ham", b"2.000000:1:spam"]
    assert raw == b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def test_the_engine_sees_its_own_shape_and_the_caller_the_declared_one():
    bench = Bench(
        [tensor("x", shape=(-1, 2), engine_shape=(-1, 2, 1))], [tensor("y", shape=(-1, 2), engine_shape=(-1, 2, 1))]
    )
    answer = bench.send(message([[1, 2]]))
    seen = []
    bench.settle()
    bench.work(lambda port, slot: (seen.append(port.inputs(slot)[0][1].shape), bench.double(port, slot)))
    assert seen == [(1, 2, 1)]
    assert answer.values == [[2, 4]]


def test_a_model_without_batch_dimension_runs_one_request_at_a_time():
    bench = Bench([tensor("x", shape=(2,))], [tensor("y", shape=(2,))], max_batch_size=0)
    answers = [bench.send(message([value, value])) for value in (1, 2)]
    bench.settle()
    while bench.work():
        pass
    assert [answer.values for answer in answers] == [[2, 2], [4, 4]]


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (message([[1, 1]], model="nobody"), NOT_FOUND, "Request for unknown model: 'nobody' is not found"),
        (message([[1, 1]], version="9"), NOT_FOUND, "Request for unknown model: 'm' version 9 is not found"),
        (message([[1, 1]], version="2"), UNAVAILABLE, "Request for unknown model: 'm' version 2 is not at ready state"),
        (message([[1, 1, 1]]), INVALID, "unexpected shape for input 'x' for model 'm'. Expected [-1,2], got [1,3]"),
        (message([[1, 1]] * 9), INVALID, "inference request batch-size must be <= 8 for 'm'"),
        (message([[1, 1]], name="q"), INVALID, "unexpected inference input 'q' for model 'm'"),
        (
            message([[1, 1]], datatype="INT32"), INVALID,
            "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        (message([[1, 1]], outputs=[("q", 0)]), INVALID, "unexpected inference output 'q' for model 'm'"),
        (message(np.zeros((0, 2))), INVALID, "inference request batch-size must be >= 1 for 'm', got 0"),
        (
            pb.ModelInferRequest(model_name="m").SerializeToString(), INVALID,
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['x']. "
            "Please provide all required input(s).",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_name(bench, data, code, text):
    bench.route({"1": bench.deployment, "2": None}, bench.deployment)
    answer = bench.send(data)
    assert (answer.code, answer.text) == (code, text)
    assert bench.dispatcher.in_flight == 0


def test_a_model_without_a_ready_version_says_so(bench):
    bench.route({}, None)
    answer = bench.send(message([[1, 1]]))
    assert (answer.code, answer.text) == (NOT_FOUND, "Request for unknown model: 'm' has no available versions")


def test_a_swap_of_routes_leaves_requests_in_flight_where_they_began(bench):
    before = bench.send(message([[1, 1]]))
    second = bench.deploy("2")
    bench.route({"1": bench.deployment, "2": second}, second)
    after, pinned = bench.send(message([[2, 2]])), bench.send(message([[3, 3]], version="1"))
    bench.settle()
    bench.work()
    assert (before.body.model_version, pinned.body.model_version) == ("1", "1")
    assert after.code is None
    second.abort(UNAVAILABLE, "gone")
    assert (after.code, after.text) == (UNAVAILABLE, "gone")


def test_a_retiring_deployment_says_when_the_last_request_is_answered(bench):
    bench.send(message([[1, 1]]))
    idle = []
    bench.deployment.retire(lambda: idle.append(True))
    bench.settle()
    assert not idle
    bench.work()
    bench.settle()
    assert idle == [True]
    bench.dispatcher.remove(bench.deployment)


def test_inputs_larger_than_a_slot_are_refused_with_both_sizes():
    bench = Bench([tensor("x", shape=(-1, -1))], [tensor("y", shape=(-1, -1))])
    answer = bench.send(message(np.zeros((1, SLOT // 4))))
    assert (answer.code, answer.text) == (INVALID, f"inputs of {SLOT} bytes exceed the batch limit of {SLOT} bytes")


def test_members_that_do_not_fit_the_slot_together_run_one_after_the_other():
    bench = Bench([tensor("x", shape=(-1, -1))], [tensor("y", shape=(-1, -1))])
    answers = [bench.send(message(np.full((1, SLOT // 8), value))) for value in range(5)]
    bench.settle()
    order = []
    while bench.work(lambda port, slot: (order.append(port.inputs(slot)[0][1][0, 0]), bench.double(port, slot))):
        pass
    assert order == [0, 1, 2, 3, 4]
    assert [answer.values[0][0] for answer in answers] == [0, 2, 4, 6, 8]


def test_more_in_flight_than_allowed_is_refused_with_a_hint_when_to_come_back():
    bench = Bench(max_in_flight=2)
    answers = [bench.send(message([[1, 1]])) for _ in range(3)]
    assert [answer.code for answer in answers] == [None, None, EXHAUSTED]
    assert answers[2].retry_after > 0
    assert answers[2].text == "2 requests are in flight, the limit is 2"


def test_a_deadline_that_has_passed_is_answered_at_once(bench):
    answer = bench.send(message([[1, 1]]), deadline=time.monotonic() - 1)
    assert (answer.code, answer.text) == (DEADLINE, "Request timeout expired")


def test_a_request_that_runs_past_its_deadline_is_answered_then_and_its_batch_mates_later(bench):
    mate, late = bench.send(message([[2, 2]])), bench.send(message([[1, 1]]), deadline=time.monotonic() + 0.05)
    bench.settle()
    assert bench.ports[bench.lanes[0]].rows(0) == 2  # both run
    while late.code is None:
        assert select.select([bench.dispatcher.timer], [], [], 10)[0]
        bench.dispatcher.on_timer()
    assert (late.code, late.text, mate.code) == (DEADLINE, "Request timeout expired", None)
    assert bench.work()
    assert mate.values == [[4, 4]]
    assert bench.dispatcher.in_flight == 0


def test_a_request_whose_deadline_passes_in_the_queue_is_answered_by_the_timer():
    bench = Bench(lanes=0)
    late = bench.send(message([[1, 1]], timeout=20_000))
    bench.settle()
    while late.code is None:
        assert select.select([bench.dispatcher.timer], [], [], 10)[0]
        bench.dispatcher.on_timer()
    assert (late.code, late.text) == (DEADLINE, "Request timeout expired")
    assert bench.dispatcher.in_flight == 0


def test_a_model_is_unavailable_while_it_has_versions_and_none_is_ready(bench):
    routes = bench.dispatcher.route_table
    bench.dispatcher.route_table = RouteTable({"coming": ModelRoute(None, {"1": None}), "gone": ModelRoute(None, {})})
    coming, gone = bench.send(message([[1, 1]], model="coming")), bench.send(message([[1, 1]], model="gone"))
    bench.dispatcher.route_table = routes
    assert (coming.code, coming.text) == (UNAVAILABLE, "Request for unknown model: 'coming' is not at ready state")
    assert (gone.code, gone.text) == (NOT_FOUND, "Request for unknown model: 'gone' has no available versions")


def test_while_the_gateway_refuses_everything_is_unavailable(bench):
    bench.dispatcher.refusal = "the server is stopping"
    answer = bench.send(message([[1, 1]]))
    assert (answer.code, answer.text) == (UNAVAILABLE, "the server is stopping")
    bench.dispatcher.refusal = None


def test_every_answer_is_metered_once_whatever_its_end(bench):
    bench.send(message([[1, 1]]))
    bench.send(message([[1, 1, 1]]))
    bench.send(message([[1, 1]])).call.cancel()
    bench.send(message([[1, 1]], model="nobody"))
    bench.settle()
    bench.work()
    meters = bench.deployment.meters
    assert (meters.requests(1)[OK], meters.requests(1)[INVALID], meters.requests(1)[CANCELLED]) == (1, 1, 1)
    assert bench.dispatcher.unrouted.requests(1)[NOT_FOUND] == 1
    statistics = meters.statistics()
    assert (statistics.success.events, statistics.fail.events, meters.execution_count) == (1, 2, 1)
    counts = {
        getattr(statistics, name).events for name in ("queue", "compute_input", "compute_infer", "compute_output")
    }
    assert counts == {1}
    assert all(getattr(statistics, name).ns < 60e9 for name in statistics._fields)


# The worker is not trusted: what it writes into the lane at the wrong time, or what is not true, hurts nobody else.

SLOT_AT, SLOT_SIZE, OUTPUTS_AT = 24, 21552, 11312  # as lanes.hpp has them


def write_state(lane, slot, state):
    os.pwrite(lane.memfd, state.to_bytes(4, "little"), SLOT_AT + slot * SLOT_SIZE)


FREE, DONE = 0, 2


def test_a_slot_that_the_worker_calls_free_while_its_batch_runs_is_not_filled_again(bench):
    (lane,) = bench.lanes
    answers = []
    for value in range(3):
        answers.append(bench.send(message([[value, 0]])))
        bench.settle()
        write_state(lane, 0, FREE)
    bench.die(lane)
    bench.lanes.append(bench.attach())
    while bench.work():
        bench.settle()
    assert [answer.code for answer in answers] == [OK, OK, OK]


def test_an_answer_that_nobody_asked_for_is_not_one(bench):
    (lane,) = bench.lanes
    write_state(lane, 0, DONE)
    bench.deployment.collect(lane)
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    assert bench.work()
    assert answer.values == [[2, 2]]


def test_an_output_beyond_the_slot_is_not_read_whatever_size_the_header_says(bench):
    answer = bench.send(message([[1, 1]]))
    bench.settle()
    (lane,) = bench.lanes

    def lie(port, slot):
        bench.double(port, slot)
        os.pwrite(lane.memfd, (2 * SLOT).to_bytes(8, "little"), 8)
        os.pwrite(lane.memfd, SLOT.to_bytes(8, "little"), SLOT_AT + slot * SLOT_SIZE + OUTPUTS_AT)

    assert bench.work(lie)
    assert answer.code == INTERNAL


FLICKER = """
import mmap, os, sys
memory, at, size = mmap.mmap(int(sys.argv[1]), 0), int(sys.argv[2]), int(sys.argv[3])
print(flush=True)
low, high = bytes(size), b"\\xff" * size
while os.getppid() == int(sys.argv[4]):
    memory[at:at + size] = low
    memory[at:at + size] = high
"""


def test_outputs_that_change_while_they_are_encoded_still_make_a_well_formed_answer():
    bench = Bench(outputs=[tensor("y", "INT64", shape=(-1, 1024))])
    (lane,) = bench.lanes
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 1])
    data = request.SerializeToString()
    header = os.fstat(lane.memfd).st_size - 4 * SLOT
    area = [sys.executable, "-c", FLICKER, str(lane.memfd), str(header + SLOT), "8192", str(os.getpid())]
    with subprocess.Popen(area, pass_fds=[lane.memfd], stdout=subprocess.PIPE) as flicker:
        assert flicker.stdout is not None
        flicker.stdout.readline()
        try:
            for _ in range(400):
                answer = bench.send(data)
                bench.settle()
                assert bench.work(
                    lambda port, slot: port.complete(
                        slot, [(0, 9, (1, 1024), np.frombuffer(port.output_area(slot), "<i8")[:1024])], 0, 0
                    )
                )
                assert (answer.code, len(answer.body.outputs[0].contents.int64_contents)) == (OK, 1024)
        finally:
            flicker.kill()


def test_nobody_gets_the_rows_of_a_member_whose_bytes_output_ends_early():
    bench = Bench(outputs=[tensor("y", "BYTES", (-1, 1))])
    first, second = bench.send(message([[1, 0], [2, 0]])), bench.send(message([[3, 0]]))
    bench.settle()
    packed = b"\3\0\0\0one" + b"\xff\0\0\0" + bytes(8)
    bench.work(lambda port, slot: port.complete(slot, [(0, BYTES, (3, 1), packed)], 0, 0))
    assert (first.code, second.code) == (INTERNAL, INTERNAL)


# Nor is the caller.


def mixed(h, v):
    """One step of the hash that groups requests, as signature.hpp has it."""
    h ^= (v + 0x9E3779B97F4A7C15 + (h << 6) + (h >> 2)) & (2**64 - 1)
    return h * 0xFF51AFD7ED558CCD & (2**64 - 1)


def test_requests_of_different_inputs_do_not_share_a_batch_even_when_their_hashes_are_made_to_meet():
    inputs = [tensor("x", shape=(-1, -1, -1)), tensor("w", shape=(-1, 1), index=1, optional=True)]
    bench = Bench(inputs, [tensor("y", shape=(-1, 1))])
    unmixed = pow(0xFF51AFD7ED558CCD, -1, 2**64)
    for width in range(1, 100):
        wanted = mixed(mixed(mixed(0b11, width), 1), 1)
        start = mixed(0b01, 0)
        last = ((wanted * unmixed ^ start) - 0x9E3779B97F4A7C15 - (start << 6) - (start >> 2)) % 2**64
        assert mixed(start, last) == wanted
        if last < 2**63:
            break
    both = pb.ModelInferRequest(model_name="m")
    both.inputs.add(name="x", datatype="FP32", shape=(1, width, 1))
    both.inputs.add(name="w", datatype="FP32", shape=(1, 1))
    both.raw_input_contents.extend([bytes(4 * width), bytes(4)])
    forged = pb.ModelInferRequest(model_name="m")
    forged.inputs.add(name="x", datatype="FP32", shape=(1, 0, last))
    forged.raw_input_contents.append(b"")
    answers = [bench.send(both.SerializeToString()), bench.send(forged.SerializeToString())]
    bench.settle()
    sizes = []

    def act(port, slot):
        sizes.append(port.rows(slot))
        port.complete(slot, [(0, FP32, (sizes[-1], 1), bytes(4 * sizes[-1]))], 0, 0)

    while bench.work(act):
        bench.settle()
    assert (sizes, [answer.code for answer in answers]) == ([1, 1], [OK, OK])


def test_inputs_reach_the_engine_by_its_own_numbers_whatever_order_the_configuration_has():
    bench = Bench([tensor("x", index=1), tensor("w", index=0)])
    request = pb.ModelInferRequest(model_name="m")
    for name, values in (("x", (1, 2)), ("w", (3, 4))):
        request.inputs.add(name=name, datatype="FP32", shape=(1, 2))
        request.raw_input_contents.append(np.array(values, "<f4").tobytes())
    bench.send(request.SerializeToString())
    bench.settle()
    seen = {}

    def act(port, slot):
        seen.update({index: view.tolist() for index, view in port.inputs(slot)})
        port.complete(slot, [(0, FP32, (1, 2), bytes(8))], 0, 0)

    assert bench.work(act)
    assert seen == {0: [[3, 4]], 1: [[1, 2]]}


# Ends that meet.


def test_a_request_that_is_answered_while_it_runs_is_metered_once(bench):
    late = bench.send(message([[1, 1]]), deadline=time.monotonic() + 0.05)
    bench.settle()
    while late.code is None:
        assert select.select([bench.dispatcher.timer], [], [], 10)[0]
        bench.dispatcher.on_timer()
    assert bench.work()
    meters = bench.deployment.meters
    assert (sum(meters.requests(1)), sum(meters.failure_counts()), meters.statistics().fail.events) == (1, 1, 1)
    assert bench.dispatcher.in_flight == bench.deployment.in_flight == 0


def test_an_answer_that_makes_its_caller_cancel_another_one_that_ends_with_it_ends_both_once():
    bench = Bench(lanes=0)
    codes = []

    def cancel_the_other(code, *_):
        codes.append(code)
        second.call.cancel()

    LocalCall(bench.dispatcher, message([[1, 1]]), 0.0, cancel_the_other)
    second = bench.send(message([[2, 2]]))
    bench.deployment.abort(UNAVAILABLE, "gone")
    assert (codes, second.code) == ([UNAVAILABLE], None)
    assert bench.dispatcher.in_flight == 0
    assert sum(bench.deployment.meters.requests(1)) == 2
    bench.attach()
    bench.lanes = list(bench.ports)
    answers = [bench.send(message([[value, 0]])) for value in range(3)]
    bench.settle()
    while bench.work():
        bench.settle()
    assert [answer.values for answer in answers] == [[[0, 0]], [[2, 0]], [[4, 0]]]


def test_the_timer_takes_a_moment_just_before_a_whole_second():
    bench = Bench(lanes=0)
    late = bench.send(message([[1, 1]]), deadline=math.nextafter(math.floor(time.monotonic()) + 1, 0))
    assert select.select([bench.dispatcher.timer], [], [], 10)[0]
    bench.dispatcher.on_timer()
    assert late.code == DEADLINE


def test_a_batch_has_run_only_since_the_one_before_it_came_back(bench):
    for value in range(2):
        bench.send(message([[value, 0]]))
        bench.settle()
    before = time.monotonic()
    assert bench.work()
    assert bench.lanes[0].oldest_started >= before


def test_a_raw_body_of_another_size_than_its_one_input_is_the_callers_mistake():
    async def post(body):
        loop = asyncio.get_running_loop()
        bench.dispatcher = Dispatcher(call_soon=loop.call_soon)
        bench.dispatcher.add(bench.deployment)
        bench.route({}, bench.deployment)
        connection = Http1Protocol(bench.dispatcher, lambda request: None, Http1Limits(), lambda connection: None)
        server = await loop.create_server(lambda: connection, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(
                b"POST /v2/models/m/infer HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
                b"Inference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer

    bench = Bench([tensor("x", shape=(2,))], max_batch_size=0, lanes=0)
    answer = asyncio.run(post(b"12345"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"raw request body of 5 bytes, but input 'x' has 8" in answer
