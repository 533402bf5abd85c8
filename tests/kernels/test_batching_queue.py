"""The batch queue: what runs together, in which order, and who is turned away with which words."""

import pytest

from kernels.batching import BatchQueue
from kernels.manual_queue import ManualQueue, Request
from kernels.queue_policy import QueuePolicy, TimeoutAction

ADMITTED, QUEUE_ROWS, QUEUE_BYTES, PREDICTED_WAIT, EXPIRED = range(5)
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 3, 4, 8, 14


def settled(queue: BatchQueue, alpha: float, tau: float) -> ManualQueue:
    """A queue whose fit knows that a batch of b rows takes alpha * b + tau."""
    for rows in (1, 64, 8, 32, 2, 16) * 40:
        queue.service_time.add(rows, alpha * rows + tau)
    return ManualQueue(queue)


def offered(queue: ManualQueue, request: Request, now: float = 1.0) -> Request:
    assert queue.offer(request, now) == ADMITTED, request.message
    return request


def levels(count: int, max_batch_size: int = 4) -> ManualQueue:
    return ManualQueue(BatchQueue(max_batch_size=max_batch_size, priority_levels=count, default_priority_level=count))


class TestForming:
    def test_an_idle_queue_gives_nothing(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        assert queue.take(1.0) == []
        assert queue.wake_at() == 0.0

    def test_what_waits_runs_at_once_together_in_its_order(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        requests = [offered(queue, Request()) for _ in range(3)]
        assert queue.take(1.0) == requests
        assert queue.queue.count == 0

    def test_rows_are_counted_and_a_request_is_never_split(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        requests = [offered(queue, Request(rows)) for rows in (3, 4, 2, 6, 1)]
        assert [queue.take(1.0) for _ in range(4)] == [requests[:2], requests[2:4], requests[4:], []]

    def test_without_a_batch_dimension_each_request_runs_alone(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=0))
        requests = [offered(queue, Request(rows)) for rows in (1, 0, 7)]
        assert queue.queue.rows == 3
        assert [queue.take(1.0) for _ in range(4)] == [[request] for request in requests] + [[]]

    def test_groups_never_mix_and_the_oldest_head_goes_first(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        a, b, c, d = (offered(queue, Request(group=g), now) for now, g in ((1.0, 7), (1.1, 5), (1.2, 7), (1.3, 5)))
        assert queue.take(2.0) == [a, c]
        assert queue.take(2.0) == [b, d]

    def test_a_thousand_groups_come_out_in_the_order_of_their_heads(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        requests = [offered(queue, Request(group=i * 7919 % 1009), 1.0 + i) for i in range(1000)]
        for request in requests[::3]:
            queue.withdraw(request)
        left = [request for i, request in enumerate(requests) if i % 3]
        assert [queue.take(5000.0) for _ in left] == [[request] for request in left]

    def test_a_lower_level_number_goes_first(self) -> None:
        queue = levels(3)
        low, high, middle = (offered(queue, Request(priority=p, group=p)) for p in (3, 1, 2))
        assert [queue.take(1.0) for _ in range(3)] == [[high], [middle], [low]]

    def test_later_levels_fill_up_a_batch_of_their_group(self) -> None:
        queue = levels(2)
        low = [offered(queue, Request(priority=2), 1.0 + i) for i in range(4)]
        high = offered(queue, Request(priority=1), 9.0)
        assert queue.take(10.0) == [high, *low[:3]]
        assert queue.take(10.0) == low[3:]

    @pytest.mark.parametrize("priority", [0, 4, -1, 1_000_000])
    def test_a_level_that_does_not_exist_means_the_default_one(self, priority: int) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4, priority_levels=3, default_priority_level=2))
        assert offered(queue, Request(priority=priority)).priority == 2

    @pytest.mark.parametrize("rows", [0, -1, 9])
    def test_a_request_that_fits_no_batch_is_refused(self, rows: int) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        request = Request(rows)
        assert queue.offer(request, 1.0) == QUEUE_ROWS
        assert (request.code, queue.queue.count) == (INVALID_ARGUMENT, 0)


class TestReturning:
    def test_members_given_back_run_before_all_others_in_their_order(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        first = [offered(queue, Request(), 1.0) for _ in range(4)]
        later = [offered(queue, Request(), 1.0) for _ in range(2)]
        assert queue.take(1.0) == first
        for request in reversed(first):
            queue.give_back(request, 2.0)
        assert queue.take(2.0) == first
        assert queue.take(2.0) == later

    def test_solo_members_run_alone(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        failed = [offered(queue, Request(), 1.0 + i) for i in range(3)]
        assert queue.take(3.0) == failed
        waiting = [offered(queue, Request(), 3.0), offered(queue, Request(), 3.0)]
        for request in failed:
            request.solo = True
            queue.give_back(request, 4.0)
        assert [queue.take(4.0) for _ in range(4)] == [[failed[0]], [failed[1]], [failed[2]], waiting]

    def test_a_solo_member_of_a_later_level_never_fills_up_a_batch(self) -> None:
        queue = levels(2)
        solo = offered(queue, Request(priority=2), 1.0)
        assert queue.take(1.0) == [solo]
        solo.solo = True
        queue.give_back(solo, 1.5)
        high = offered(queue, Request(priority=1), 2.0)
        assert [queue.take(2.0), queue.take(2.0)] == [[high], [solo]]

    def test_limits_do_not_hold_for_what_is_given_back(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=1, max_rows=1, max_bytes=10))
        first = offered(queue, Request(nbytes=10))
        assert queue.take(1.0) == [first]
        second = offered(queue, Request(nbytes=10))
        queue.give_back(first, 1.0)
        assert (queue.queue.count, queue.queue.rows, queue.queue.nbytes) == (2, 2, 20)
        assert [queue.take(1.0), queue.take(1.0)] == [[first], [second]]


class TestWithdrawing:
    @pytest.mark.parametrize("position", range(5))
    def test_its_neighbours_stay_as_they_were(self, position: int) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        requests = [offered(queue, Request(nbytes=3)) for _ in range(5)]
        gone = requests.pop(position)
        queue.withdraw(gone)
        assert not gone.is_linked
        assert (queue.queue.count, queue.queue.rows, queue.queue.nbytes) == (4, 4, 12)
        assert queue.take(1.0) == requests

    def test_twice_is_as_good_as_once(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        kept, gone = offered(queue, Request()), offered(queue, Request())
        queue.withdraw(gone)
        queue.withdraw(gone)
        assert queue.take(1.0) == [kept]

    def test_one_that_was_never_queued_or_already_runs_is_left_alone(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=1))
        queue.withdraw(Request())
        first, second = offered(queue, Request()), offered(queue, Request())
        assert queue.take(1.0) == [first]
        queue.withdraw(first)
        assert queue.take(1.0) == [second]

    def test_the_last_one_leaves_nothing_to_wake_for(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        request = offered(queue, Request(deadline=2.0))
        assert queue.wake_at() == 2.0
        queue.withdraw(request)
        assert queue.wake_at() == 0.0


class TestDelay:
    def delayed(self, *preferred: int) -> ManualQueue:
        return ManualQueue(BatchQueue(max_batch_size=8, max_queue_delay=0.010, preferred_batch_sizes=preferred))

    def test_counts_from_when_the_oldest_was_queued(self) -> None:
        queue = self.delayed()
        requests = [offered(queue, Request(), 1.0), offered(queue, Request(), 1.008)]
        assert queue.take(1.009) == []
        assert queue.wake_at() == pytest.approx(1.010)
        assert queue.take(queue.wake_at()) == requests

    def test_a_full_batch_does_not_wait(self) -> None:
        queue = self.delayed()
        requests = [offered(queue, Request(4)) for _ in range(2)]
        assert queue.take(1.0) == requests

    def test_a_batch_that_the_next_request_does_not_fit_into_does_not_wait(self) -> None:
        queue = self.delayed()
        first = offered(queue, Request(5))
        offered(queue, Request(4))
        assert queue.take(1.0) == [first]
        assert queue.take(1.0) == []

    def test_a_prefix_of_preferred_size_goes_at_once(self) -> None:
        queue = self.delayed(2, 4)
        requests = [offered(queue, Request()) for _ in range(5)]
        assert queue.take(1.0) == requests[:4]
        assert queue.take(1.0) == []
        assert queue.take(1.010) == requests[4:]

    def test_when_the_delay_is_over_everything_goes(self) -> None:
        queue = self.delayed(2)
        requests = [offered(queue, Request()) for _ in range(3)]
        assert queue.take(1.010) == requests

    def test_preferred_sizes_mean_nothing_without_a_delay(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8, preferred_batch_sizes=(2,)))
        requests = [offered(queue, Request()) for _ in range(3)]
        assert queue.take(1.0) == requests

    def test_a_ready_group_does_not_wait_for_an_older_one_that_is_not(self) -> None:
        queue = self.delayed(2)
        old = offered(queue, Request(group=1), 1.0)
        pair = [offered(queue, Request(group=2), 1.001) for _ in range(2)]
        assert queue.take(1.002) == pair
        assert queue.take(1.002) == []
        assert queue.take(1.010) == [old]

    def test_among_ready_groups_the_one_with_the_older_head_goes_first(self) -> None:
        queue = self.delayed(2)
        offered(queue, Request(group=1), 1.0)
        pairs = [[offered(queue, Request(group=g), 1.0 + g / 1000) for _ in range(2)] for g in (2, 3, 4)]
        assert [queue.take(1.006) for _ in range(4)] == [*pairs, []]

    def test_nobody_is_held_back_into_the_last_of_his_time(self) -> None:
        queue = settled(BatchQueue(max_batch_size=64, max_queue_delay=0.100), 0.0, 5e-3)
        request = offered(queue, Request(deadline=1.050))
        assert queue.take(1.0) == []
        assert 1.040 < queue.wake_at() < 1.045
        assert queue.take(queue.wake_at()) == [request]

    def test_what_is_given_back_has_waited_long_enough(self) -> None:
        queue = self.delayed()
        request = offered(queue, Request(), 1.0)
        assert queue.take(1.010) == [request]
        queue.give_back(request, 1.020)
        assert queue.take(1.020) == [request]

    def test_no_time_is_named_for_what_has_had_its_turn(self) -> None:
        queue = self.delayed()
        offered(queue, Request())
        assert queue.take(1.0) == []
        queue.expire(1.010)
        assert queue.wake_at() == 0.0


class TestAdmission:
    def test_rows_over_the_limit_are_refused_until_some_have_left(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4, max_rows=4))
        offered(queue, Request(3))
        refused = Request(2)
        assert queue.offer(refused, 1.0) == refused.shed == QUEUE_ROWS
        assert refused.code == RESOURCE_EXHAUSTED
        assert refused.message == "Exceeds maximum queue size: 3 rows queued, limit 4"
        assert refused.retry_after > 0
        offered(queue, Request(1))
        queue.take(1.0)
        offered(queue, Request(4))

    def test_bytes_over_the_limit_are_refused(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4, max_bytes=100))
        offered(queue, Request(nbytes=60))
        refused = Request(nbytes=41)
        assert queue.offer(refused, 1.0) == QUEUE_BYTES
        assert refused.message == "Exceeds maximum queue bytes: 60 bytes queued, limit 100"
        offered(queue, Request(nbytes=40))

    def test_a_level_has_its_own_limit_of_requests(self) -> None:
        policies = {2: QueuePolicy(max_queue_size=1)}
        queue = ManualQueue(BatchQueue(max_batch_size=4, priority_levels=2, policies=policies))
        offered(queue, Request(priority=2))
        refused = Request(priority=2)
        assert queue.offer(refused, 1.0) == QUEUE_ROWS
        assert refused.message == "Exceeds maximum queue size: 1 requests queued at level 2, limit 1"
        offered(queue, Request(priority=1))

    def test_a_deadline_that_has_passed_is_refused(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=4))
        request = Request(deadline=1.0)
        assert queue.offer(request, 1.0) == EXPIRED
        assert (request.code, request.message) == (DEADLINE_EXCEEDED, "Request timeout expired")

    def test_the_full_batches_ahead_the_running_one_and_its_own_make_the_prediction(self) -> None:
        queue = settled(BatchQueue(max_batch_size=4), 1e-3, 1e-3)
        for _ in range(6):
            offered(queue, Request())
        # One full batch of 4 takes 5 ms, then its own of 3 takes 4 ms; the running one takes 2 ms more.
        assert queue.offer(Request(deadline=1.0108), 1.0, backlog=2e-3) == PREDICTED_WAIT
        assert queue.offer(Request(deadline=1.0112), 1.0, backlog=2e-3) == ADMITTED

    def test_the_refusal_names_the_facts_and_when_to_try_again(self) -> None:
        queue = settled(BatchQueue(max_batch_size=4), 0.0, 0.1)
        for _ in range(8):
            offered(queue, Request())
        refused = Request(deadline=1.25)
        assert queue.offer(refused, 1.0) == PREDICTED_WAIT
        assert refused.code == RESOURCE_EXHAUSTED
        assert refused.message == "predicted time of 0.300000 s exceeds the deadline 0.250000 s away: 8 rows ahead"
        assert refused.retry_after == pytest.approx(0.3)

    def test_more_slots_shorten_the_wait(self) -> None:
        queue = settled(BatchQueue(max_batch_size=1), 0.0, 0.1)
        for _ in range(4):
            offered(queue, Request())
        assert queue.offer(Request(deadline=1.35), 1.0, slots=1) == PREDICTED_WAIT
        assert queue.offer(Request(deadline=1.35), 1.0, slots=2) == ADMITTED

    def test_only_what_goes_first_counts(self) -> None:
        queue = settled(BatchQueue(max_batch_size=1, priority_levels=2), 0.0, 0.1)
        for _ in range(4):
            offered(queue, Request(priority=2))
        assert queue.offer(Request(priority=2, deadline=1.15), 1.0) == PREDICTED_WAIT
        assert queue.offer(Request(priority=1, deadline=1.15), 1.0) == ADMITTED

    def test_a_wait_over_the_limit_is_refused_without_a_deadline(self) -> None:
        queue = settled(BatchQueue(max_batch_size=1, max_wait=0.25), 0.0, 0.1)
        for _ in range(3):
            offered(queue, Request())
        refused = Request()
        assert queue.offer(refused, 1.0) == PREDICTED_WAIT
        assert refused.message == "predicted wait of 0.300000 s exceeds the limit of 0.250000 s: 3 rows ahead"

    def test_nobody_is_refused_for_a_prediction_from_a_few_batches(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=1, max_wait=0.1))
        for _ in range(4):
            queue.queue.service_time.add(1, 10.0)
            offered(queue, Request(deadline=1.5))
        queue.queue.service_time.add(1, 10.0)
        assert queue.offer(Request(deadline=1.5), 1.0) == PREDICTED_WAIT
        assert len(queue.take(1.0)) == 0
        assert [request.shed for request in queue.take_dropped()] == [PREDICTED_WAIT] * 4


class TestEarlyDrop:
    def test_what_cannot_make_it_is_dropped_when_a_batch_is_taken(self) -> None:
        queue = settled(BatchQueue(max_batch_size=8), 0.0, 0.1)
        doomed = offered(queue, Request(deadline=2.0))
        kept = offered(queue, Request(deadline=3.0))
        assert queue.take(1.95) == [kept]
        assert queue.take_dropped() == [doomed]
        assert (doomed.shed, doomed.code) == (PREDICTED_WAIT, DEADLINE_EXCEEDED)
        assert doomed.message == "predicted service time of 0.100000 s exceeds the deadline 0.050000 s away"

    def test_one_whose_deadline_has_passed_says_so(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        late = offered(queue, Request(deadline=2.0))
        assert queue.take(2.0) == []
        assert queue.take_dropped() == [late]
        assert (late.shed, late.code, late.message) == (EXPIRED, DEADLINE_EXCEEDED, "Request timeout expired")

    def test_a_smaller_batch_saves_the_one_in_a_hurry(self) -> None:
        queue = settled(BatchQueue(max_batch_size=8), 10e-3, 0.0)
        hurried = offered(queue, Request(deadline=1.035))
        others = [offered(queue, Request(deadline=2.0)) for _ in range(7)]
        assert queue.take(1.0) == [hurried, *others[:2]]
        assert queue.take(1.030) == others[2:]
        assert queue.take_dropped() == []

    def test_a_hurried_one_behind_the_head_makes_the_batch_smaller_too(self) -> None:
        queue = settled(BatchQueue(max_batch_size=8), 10e-3, 0.0)
        calm = [offered(queue, Request(deadline=9.0)) for _ in range(2)]
        hurried = offered(queue, Request(deadline=1.045))
        rest = [offered(queue, Request()) for _ in range(5)]
        assert queue.take(1.0) == [*calm, hurried, rest[0]]
        assert queue.take_dropped() == []

    def test_a_smaller_batch_that_makes_the_next_ones_late_is_no_answer(self) -> None:
        queue = settled(BatchQueue(max_batch_size=8), 1e-3, 20e-3)
        requests = [offered(queue, Request(deadline=1.050 + i / 10_000)) for i in range(8)]
        # All 8 take 28 ms and 26 are left; 6 would do, but then the other two come at 1.024 + 26 + 28 ms.
        assert queue.take(1.0241) == requests[2:]
        assert queue.take_dropped() == requests[:2]

    def test_with_another_slot_the_next_ones_start_sooner(self) -> None:
        queue = settled(BatchQueue(max_batch_size=8), 1e-3, 20e-3)
        requests = [Request(deadline=1.050 if i < 5 else 1.066) for i in range(8)]
        for request in requests:
            assert queue.offer(request, 1.0, 0.0, 2) == ADMITTED
        assert queue.take(1.0241) == requests[:5]
        assert queue.take(1.0241) == requests[5:]

    def test_drops_come_out_in_the_order_in_which_they_were_found(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        late = [offered(queue, Request(deadline=2.0)) for _ in range(5)]
        queue.expire(2.0)
        assert queue.take_dropped() == late


class TestQueueTimeout:
    def with_policy(self, action: TimeoutAction) -> ManualQueue:
        policy = QueuePolicy(timeout_action=action, default_timeout=0.5, allow_timeout_override=False)
        return ManualQueue(BatchQueue(max_batch_size=4, default_policy=policy))

    def test_rejecting_drops_what_has_waited_too_long(self) -> None:
        queue = self.with_policy(TimeoutAction.REJECT)
        old, new = offered(queue, Request(), 1.0), offered(queue, Request(), 1.2)
        assert queue.wake_at() == 1.5
        assert queue.take(1.5) == [new]
        assert queue.take_dropped() == [old]
        assert (old.shed, old.code, old.message) == (EXPIRED, DEADLINE_EXCEEDED, "Request timeout expired")

    def test_delaying_puts_it_behind_all_others_of_its_level(self) -> None:
        queue = self.with_policy(TimeoutAction.DELAY)
        old = [offered(queue, Request(), 1.0 + i / 100) for i in range(2)]
        new = [offered(queue, Request(group=1), 1.2), offered(queue, Request(), 1.3)]
        queue.expire(1.6)
        assert queue.take_dropped() == []
        assert (queue.queue.count, queue.queue.rows) == (4, 4)
        assert queue.take(1.6) == [new[0]]
        assert queue.take(1.6) == [new[1], *old]

    def test_a_delayed_one_has_no_timeout_any_more_but_keeps_its_deadline(self) -> None:
        queue = self.with_policy(TimeoutAction.DELAY)
        request = offered(queue, Request(deadline=9.0), 1.0)
        queue.expire(2.0)
        assert queue.wake_at() == 9.0
        queue.expire(9.0)
        assert queue.take_dropped() == [request]

    def test_a_delayed_one_can_be_withdrawn(self) -> None:
        queue = self.with_policy(TimeoutAction.DELAY)
        requests = [offered(queue, Request()) for _ in range(3)]
        queue.expire(2.0)
        queue.withdraw(requests[1])
        queue.withdraw(requests[0])
        assert queue.take(2.0) == [requests[2]]

    def test_what_is_given_back_has_no_queue_timeout_any_more(self) -> None:
        queue = self.with_policy(TimeoutAction.REJECT)
        request = offered(queue, Request(), 1.0)
        assert queue.take(1.0) == [request]
        queue.give_back(request, 2.0)
        queue.expire(2.0)
        assert queue.take(2.0) == [request]

    def test_a_policy_says_whether_a_request_may_bring_its_own(self) -> None:
        policies = {1: QueuePolicy(allow_timeout_override=False), 2: QueuePolicy(allow_timeout_override=True)}
        queue = ManualQueue(BatchQueue(max_batch_size=4, priority_levels=3, policies=policies))
        assert [queue.allow_timeout_override(level) for level in (0, 1, 2, 3)] == [False, False, True, True]


class TestExpiring:
    def test_one_in_the_middle_of_its_group_is_found(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        requests = [offered(queue, Request(deadline=d)) for d in (9.0, 2.0, 8.0, 3.0)]
        assert queue.wake_at() == 2.0
        queue.expire(2.5)
        assert queue.take_dropped() == [requests[1]]
        queue.expire(3.5)
        assert queue.take_dropped() == [requests[3]]
        assert queue.take(3.5) == [requests[0], requests[2]]

    def test_waking_always_gets_somewhere(self) -> None:
        queue = ManualQueue(BatchQueue(max_batch_size=8))
        for i in range(1000):
            offered(queue, Request(deadline=2.0 + i * 7919 % 1000 / 1000))
        dropped, now = 0, 1.0
        while queue.queue.count:
            assert queue.wake_at() > now
            now = queue.wake_at()
            queue.expire(now)
            dropped += len(queue.take_dropped())
        assert dropped == 1000
        assert now < 3.1

    @pytest.mark.parametrize("spread", [0.0, 0.2])
    def test_looking_for_the_expired_costs_a_few_visits_a_request(self, spread: float) -> None:
        # 50,000 requests a second with 250 ms to live, of which 30,000 can be served: the queue grows to about 7,500.
        queue = ManualQueue(BatchQueue(max_batch_size=30))
        offers, dropped, latest = 0, 0, 0.0
        for tick in range(1, 1001):
            now = 1.0 + tick / 1000
            for _ in range(50):
                offered(queue, Request(deadline=now + 0.25 - (offers * 31 % 10) / 10 * spread), now)
                offers += 1
            queue.expire(now)
            late = queue.take_dropped()
            latest = max([latest, *(now - request.deadline for request in late)])
            dropped += len(late)
            queue.take(now)
            dropped += len(queue.take_dropped())
        assert dropped > 1000
        assert latest < 0.02
        assert queue.queue.visits <= (3 if spread == 0 else 25) * offers


class TestClearing:
    def test_everything_comes_out_with_the_reason_given(self) -> None:
        queue = levels(2)
        requests = {offered(queue, Request(priority=p, group=g, nbytes=1)) for p in (1, 2) for g in (1, 2, 3)}
        queue.clear(UNAVAILABLE, "draining")
        dropped = queue.take_dropped()
        assert set(dropped) == requests
        assert {(request.code, request.message, request.shed) for request in dropped} == {(14, "draining", 0)}
        assert (queue.queue.count, queue.queue.rows, queue.queue.nbytes, queue.wake_at()) == (0, 0, 0, 0.0)
        assert queue.take(1.0) == []


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"max_queue_delay": float("nan")}, "max_queue_delay"),
        ({"max_wait": -1.0}, "max_wait"),
        ({"preferred_batch_sizes": (9,)}, "preferred_batch_sizes"),
        ({"preferred_batch_sizes": (0,)}, "preferred_batch_sizes"),
        ({"priority_levels": 2, "default_priority_level": 3}, "default_priority_level"),
        ({"policies": {2: QueuePolicy()}}, "policies"),
        ({"default_policy": QueuePolicy(default_timeout=-1.0)}, "queue policy"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(parameters: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BatchQueue(**{"max_batch_size": 8, **parameters})  # type: ignore[arg-type]
