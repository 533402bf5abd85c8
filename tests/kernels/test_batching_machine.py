"""The batch queue against a reference that keeps one plain list and searches it, over random histories."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kernels.batching import BatchQueue
from kernels.manual_queue import ManualQueue, Request
from kernels.queue_policy import QueuePolicy, TimeoutAction

ADMITTED, QUEUE_ROWS, QUEUE_BYTES, PREDICTED_WAIT, EXPIRED = range(5)
RETURNED, WAITING, DELAYED = range(3)
TICK = 1 / 1024


@dataclass
class Entry:
    request: Request
    level: int
    standing: int

    @property
    def line(self) -> tuple[int, int]:
        return self.level, self.standing


@dataclass
class Reference:
    """What the queue promises, the slow way: every question is a search through `entries`."""

    real: BatchQueue
    policies: dict[int, QueuePolicy]
    preferred: tuple[int, ...]
    slots: int = 1
    entries: list[Entry] = field(default_factory=list)
    dropped: list[tuple[Request, int]] = field(default_factory=list)

    @property
    def limit(self) -> int:
        return max(self.real.max_batch_size, 1)

    def expected(self, rows: int) -> float:
        return self.real.service_time.estimate_cautiously(rows) if self.real.service_time.observations >= 5 else 0.0

    def offer(self, request: Request, now: float, backlog: float, slots: int) -> int:
        self.slots = slots
        level = request.priority if 1 <= request.priority <= len(self.policies) else self.real.default_priority_level
        ahead = sum(entry.request.rows for entry in self.entries if entry.level <= level)
        size = self.policies[level].max_queue_size
        if 0 < request.deadline <= now:
            return EXPIRED
        if size and sum(entry.level == level for entry in self.entries) >= size:
            return QUEUE_ROWS
        if self.real.max_rows and sum(entry.request.rows for entry in self.entries) + request.rows > self.real.max_rows:
            return QUEUE_ROWS
        if self.real.max_bytes:
            queued = sum(entry.request.nbytes for entry in self.entries)
            if queued + request.nbytes > self.real.max_bytes:
                return QUEUE_BYTES
        if self.real.service_time.observations >= 5:
            before = backlog + ahead // self.limit * self.expected(self.limit) / slots
            finish = before + self.expected(min(self.limit, ahead % self.limit + request.rows))
            if request.deadline and now + finish > request.deadline:
                return PREDICTED_WAIT
            if self.real.max_wait and before > self.real.max_wait:
                return PREDICTED_WAIT
        self.entries.append(Entry(request, level, WAITING))
        return ADMITTED

    def give_back(self, request: Request) -> None:
        self.entries.append(Entry(request, request.priority, RETURNED))

    def in_order(self, group: int | None = None) -> list[Entry]:
        chosen = [entry for entry in self.entries if group in (None, entry.request.group)]
        return sorted(chosen, key=lambda entry: (entry.line, entry.request.queued))

    def drop(self, entry: Entry, reason: int) -> None:
        self.entries.remove(entry)
        self.dropped.append((entry.request, reason))

    def turn_away(self, entry: Entry, now: float) -> bool:
        request, policy = entry.request, self.policies[entry.level]
        if 0 < request.deadline <= now:
            self.drop(entry, EXPIRED)
        elif request.deadline and now + self.expected(request.rows) > request.deadline:
            self.drop(entry, PREDICTED_WAIT)
        elif entry.standing == WAITING and policy.default_timeout and request.queued + policy.default_timeout <= now:
            if policy.timeout_action is TimeoutAction.REJECT:
                self.drop(entry, EXPIRED)
            else:
                entry.standing = DELAYED
        else:
            return False
        return True

    def expire(self, now: float) -> None:
        for entry in self.in_order():
            timeout = self.policies[entry.level].default_timeout if entry.standing == WAITING else 0.0
            if 0 < entry.request.deadline <= now or (timeout and entry.request.queued + timeout <= now):
                self.turn_away(entry, now)

    def members(self, group: int, now: float) -> tuple[list[Entry], bool]:
        found: list[Entry] = []
        rows = 0
        seen: set[int] = set()
        while True:
            entry = next((entry for entry in self.in_order(group) if id(entry) not in seen), None)
            if entry is None:
                return found, False
            if self.turn_away(entry, now):
                continue
            if found and (entry.request.solo or rows + entry.request.rows > self.limit):
                return found, True
            seen.add(id(entry))
            found.append(entry)
            rows += entry.request.rows
            if entry.request.solo or rows >= self.limit:
                return found, True

    def batch(self, group: int, now: float) -> list[Entry] | None:
        """What should run now of one group; None when somebody was dropped to find out."""
        found, full = self.members(group, now)
        if not found:
            return None
        rows = sum(entry.request.rows for entry in found)
        prefix = max(
            (found[:size] for size in range(len(found) + 1) if self.is_in_time(found[:size], now)),
            key=len,
        )
        if len(prefix) < len(found):
            following = found[len(prefix)].request.deadline or math.inf
            smaller = self.expected(sum(entry.request.rows for entry in prefix))
            if now + smaller / self.slots + self.expected(rows) <= following:
                return prefix
            self.drop(min(found, key=lambda entry: entry.request.deadline or math.inf), PREDICTED_WAIT)
            return None
        if not self.real.max_queue_delay:
            return found
        oldest = min(entry.request.queued for entry in found)
        if now >= oldest + self.real.max_queue_delay:
            return found
        for size in range(len(found), 0, -1):
            if sum(entry.request.rows for entry in found[:size]) in self.preferred:
                return found[:size]
        hurry = min(entry.request.deadline or math.inf for entry in found) - self.expected(rows) - 2e-3
        return found if full or now >= hurry else []

    def is_in_time(self, entries: list[Entry], now: float) -> bool:
        finish = now + self.expected(sum(entry.request.rows for entry in entries))
        return all(finish <= (entry.request.deadline or math.inf) for entry in entries)

    def take(self, now: float) -> list[Request]:
        self.expire(now)
        for level in self.policies:
            for standing in range(3):
                batch = self.first_ready(level, standing, now)
                if batch:
                    for entry in batch:
                        self.entries.remove(entry)
                    return [entry.request for entry in batch]
        return []

    def first_ready(self, level: int, standing: int, now: float) -> list[Entry]:
        while True:
            heads: dict[int, Entry] = {}
            for entry in self.in_order():
                if entry.line == (level, standing):
                    heads.setdefault(entry.request.group, entry)
            for head in sorted(heads.values(), key=lambda entry: entry.request.queued):
                if self.turn_away(head, now):
                    break
                batch = self.batch(head.request.group, now)
                if batch is None:
                    break
                if batch:
                    return batch
            else:
                return []


class Machine(RuleBasedStateMachine):
    @initialize(
        max_batch_size=st.sampled_from([0, 1, 4, 8, 8]),
        delay=st.sampled_from([0.0, 0.0, 5 * TICK]),
        preferred=st.sampled_from([(), (2,), (2, 4)]),
        levels=st.sampled_from([1, 1, 2, 3]),
        action=st.sampled_from(TimeoutAction),
        timeout=st.sampled_from([0.0, 20 * TICK]),
        sizes=st.sampled_from([0, 12]),
        max_rows=st.sampled_from([0, 0, 40]),
        max_wait=st.sampled_from([0.0, 0.0, 20 * TICK]),
        fit=st.sampled_from([None, (1 * TICK, 2 * TICK), (3 * TICK, 0.0), (0.0, 8 * TICK)]),
    )
    def start(
        self,
        max_batch_size: int,
        delay: float,
        preferred: tuple[int, ...],
        levels: int,
        action: TimeoutAction,
        timeout: float,
        sizes: int,
        max_rows: int,
        max_wait: float,
        fit: tuple[float, float] | None,
    ) -> None:
        preferred = tuple(size for size in preferred if size <= max_batch_size)
        plain, strict = QueuePolicy(), QueuePolicy(action, timeout, False, sizes)
        policies = {level: strict if level % 2 else plain for level in range(1, levels + 1)}
        real = BatchQueue(
            max_batch_size=max_batch_size,
            max_queue_delay=delay,
            preferred_batch_sizes=preferred,
            priority_levels=levels,
            default_priority_level=levels,
            policies=policies,
            max_rows=max_rows,
            max_bytes=400,
            max_wait=max_wait,
        )
        if fit is not None:
            for rows in (1, 8, 2, 4) * 40:
                real.service_time.add(rows, fit[0] * rows + fit[1])
        self.queue = ManualQueue(real)
        self.reference = Reference(real, policies, preferred)
        self.now = 1.0
        self.running: list[Request] = []
        self.everyone: list[Request] = []
        self.ended: list[Request] = []

    def advance(self, ticks: int) -> None:
        self.now += ticks * TICK

    def compare_dropped(self) -> None:
        dropped = self.queue.take_dropped()
        assert {(id(request), request.shed) for request in dropped} == {
            (id(request), reason) for request, reason in self.reference.dropped
        }
        assert len(dropped) == len(self.reference.dropped)
        assert all(request.code == 4 and request.message for request in dropped)
        self.ended += dropped
        self.reference.dropped.clear()

    @rule(
        burst=st.lists(
            st.builds(
                lambda rows, patience, priority, group, nbytes: (rows, patience, priority, group, nbytes),
                rows=st.sampled_from([1, 1, 1, 2, 4]),
                patience=st.sampled_from([0, 0, 6, 12, 18, 24, 40]),
                priority=st.integers(0, 3),
                group=st.sampled_from([0, 0, 0, 1, 2]),
                nbytes=st.integers(0, 20),
            ),
            min_size=1,
            max_size=8,
        ),
        backlog=st.sampled_from([0.0, 2 * TICK]),
        slots=st.integers(1, 2),
    )
    def offer(self, burst: list[tuple[int, int, int, int, int]], backlog: float, slots: int) -> None:
        for rows, patience, priority, group, nbytes in burst:
            rows = min(rows, max(self.queue.queue.max_batch_size, 1))
            deadline = self.now + patience * TICK if patience else 0.0
            request = Request(rows, deadline=deadline, priority=priority, group=group, nbytes=nbytes)
            expected = self.reference.offer(request, self.now, backlog, slots)
            assert self.queue.offer(request, self.now, backlog, slots) == expected == request.shed
            assert (expected == ADMITTED) == (request.code == 0)
            self.everyone.append(request)
            if expected != ADMITTED:
                assert request.message
                assert not request.is_linked
                self.ended.append(request)
            self.advance(1)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Whatever state it is in: queued ones leave, all others are left alone."""
        if self.everyone:
            request = data.draw(st.sampled_from(self.everyone[-24:]))
            self.queue.withdraw(request)
            for entry in self.reference.entries:
                if entry.request is request:
                    self.reference.entries.remove(entry)
                    self.ended.append(request)
                    break

    @rule(ticks=st.integers(0, 12))
    def take(self, ticks: int) -> None:
        self.advance(ticks)
        batch = self.queue.take(self.now)
        assert batch == self.reference.take(self.now)
        assert not any(request.is_linked for request in batch)
        assert sum(request.rows for request in batch) <= max(self.queue.queue.max_batch_size, 1)
        assert len({request.group for request in batch}) <= 1
        assert len(batch) == 1 or not any(request.solo for request in batch)
        finish = self.now + self.reference.expected(sum(request.rows for request in batch))
        assert all(not request.deadline or finish <= request.deadline for request in batch)
        if not batch and not self.queue.queue.max_queue_delay:
            assert self.queue.queue.count == 0
        self.running += batch
        self.compare_dropped()

    @rule(data=st.data(), solo=st.sampled_from([False, False, True]))
    def give_back(self, data: st.DataObject, solo: bool) -> None:
        for request in data.draw(st.permutations(self.running))[:4]:
            self.running.remove(request)
            request.solo = request.solo or solo
            self.queue.give_back(request, self.now)
            self.reference.give_back(request)
        self.advance(1)

    @rule(ticks=st.integers(0, 12))
    def expire(self, ticks: int) -> None:
        self.advance(ticks)
        self.queue.expire(self.now)
        self.reference.expire(self.now)
        self.compare_dropped()

    @rule()
    def sleep_until_woken(self) -> None:
        wake = self.queue.wake_at()
        if wake > self.now:
            self.now = wake
            self.take(0)
            self.advance(1)

    @rule()
    def clear(self) -> None:
        self.queue.clear(14, "draining")
        dropped = self.queue.take_dropped()
        assert sorted(map(id, dropped)) == sorted(id(entry.request) for entry in self.reference.entries)
        self.ended += dropped
        self.reference.entries.clear()

    @invariant()
    def counts_are_what_is_queued(self) -> None:
        queued = [entry.request for entry in self.reference.entries]
        real = self.queue.queue
        assert real.count == len(queued)
        assert real.rows == sum(request.rows for request in queued)
        assert real.nbytes == sum(request.nbytes for request in queued)

    @invariant()
    def nobody_is_lost_or_in_two_places(self) -> None:
        queued = [entry.request for entry in self.reference.entries]
        assert sorted(map(id, queued + self.running + self.ended)) == sorted(map(id, self.everyone))

    @invariant()
    def nothing_expires_before_the_wake_up(self) -> None:
        deadlines = [entry.request.deadline for entry in self.reference.entries if entry.request.deadline]
        if deadlines:
            assert 0 < self.queue.wake_at() <= max(min(deadlines), self.now + 1e-3)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
