"""One published version: the native deployment that carries its requests, and the instances whose lanes it uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.serving_plan import QueuePolicy, ServingPlan
from gateway.settings import BatchingSettings
from gateway.version_group import VersionGroup
from gateway.workers.instance import Instance
from gateway.workers.placement import Placement, place
from gateway.workers.spec import Exit
from kernels import batching, queue_policy
from kernels.deployment import Deployment
from kernels.dispatch import Dispatcher
from kernels.meters import Meters

UNAVAILABLE = 14


class Served:
    """From `publish` to the end of `withdraw`. Follows its group: an instance that comes up serves until it ends."""

    def __init__(
        self,
        version: int,
        plan: ServingPlan,
        group: VersionGroup,
        dispatcher: Dispatcher,
        meters: Meters,
        make_placement: Callable[[], Placement],
        settings: BatchingSettings,
    ) -> None:
        self.model, self.version = plan.model, str(version)
        self.plan, self.group = plan, group
        self.is_suspended = False
        self.role = "stable"
        """`stable`, `canary` or `shadow`; the data plane says."""
        self._make_placement = make_placement
        self._loop = asyncio.get_running_loop()
        self._dispatcher = dispatcher
        slots = [instance.lane.slot_bytes for instance in group.instances]
        self.deployment = Deployment(
            plan.model,
            self.version,
            plan.inputs,
            plan.outputs,
            max_batch_size=plan.max_batch_size,
            queue=make_queue(plan, settings),
            slot_bytes=min(slots, default=0),
            meters=meters,
        )
        dispatcher.add(self.deployment)
        # Instances whose lanes are attached, with where each runs. Changed by `_up` and `_down` only.
        self._placements: dict[Instance, Placement] = {}
        self._last = (0, 0.0, 0)
        self._used_at = time.monotonic()
        group.listen(self._up, self._down)

    @property
    def meters(self) -> Meters:
        return self.deployment.meters

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(self._placements)

    @property
    def idle_since(self) -> float | None:
        """When it was last used, in monotonic seconds and to the interval of `update_placement`; None while it has
        requests in flight."""
        return None if self.deployment.in_flight else self._used_at

    def suspend(self, reason: str) -> None:
        """Answers what is queued with UNAVAILABLE."""
        self.is_suspended = True
        self.deployment.abort(UNAVAILABLE, reason)

    async def drain(self) -> None:
        """Returns when everything that was sent here has been answered; nothing new may come."""
        idle = asyncio.Event()
        self.deployment.retire(idle.set)
        await idle.wait()
        for instance in self.instances:
            self._detach(instance)
        self.group.listen(lambda instance: None, lambda instance, exit: None)
        self._dispatcher.remove(self.deployment)

    def kill_hung(self, now: float, batch_timeout: float) -> list[Instance]:
        """Ends the workers whose batch has run for longer than `batch_timeout` seconds, and returns them."""
        started = dict(self.deployment.oldest_started())
        hung = [one for one in self._placements if now - started.get(one.lane, now) > batch_timeout]
        for instance in hung:
            instance.kill()
        return hung

    def update_placement(self, now: float) -> bool:
        """Moves workers between the loop's core and the others, by what they did since the last call; whether any of
        them is on the loop's core now."""
        deployment = self.deployment
        if deployment.in_flight or self.meters.execution_count != self._last[0]:
            self._used_at = now
        batches = self.meters.execution_count
        rows, busy = self.meters.inference_count, deployment.compute_seconds
        done = (batches - self._last[0], busy - self._last[1], rows - self._last[2])
        self._last = (batches, busy, rows)
        workers = max(len(self._placements), 1)
        for instance, placement in self._placements.items():
            moved = placement.update(now, -(-done[0] // workers), done[1] / workers, -(-done[2] // workers))
            if moved is not None:
                place(instance.pid, moved)
        return any(placement.is_narrow for placement in self._placements.values())

    def _up(self, instance: Instance) -> None:
        lane = instance.lane
        self._placements[instance] = placement = self._make_placement()
        place(instance.pid, placement.cpus)  # it has inherited whatever its parent was confined to
        self._loop.add_reader(lane.completion, self.deployment.collect, lane)
        self.deployment.attach(lane)

    def _down(self, instance: Instance, exit: Exit) -> None:
        self._detach(instance)

    def _detach(self, instance: Instance) -> None:
        """Its batches run elsewhere."""
        if self._placements.pop(instance, None) is not None:
            self._loop.remove_reader(instance.lane.completion)
            self.deployment.detach(instance.lane)


def make_queue(plan: ServingPlan, settings: BatchingSettings) -> batching.BatchQueue:
    """The queue of one version: its own policy within the gateway's limits."""
    own = plan.batching
    return batching.BatchQueue(
        max_batch_size=plan.max_batch_size,
        max_queue_delay=own.max_queue_delay_seconds,
        preferred_batch_sizes=own.preferred_batch_sizes,
        priority_levels=own.priority_levels,
        default_priority_level=own.default_priority_level,
        policies={level: _policy(policy) for level, policy in enumerate(own.queue_policies, 1)},
        max_rows=settings.max_queue_rows,
        max_bytes=settings.max_queue_bytes,
        max_wait=settings.max_queue_seconds,
    )


def _policy(policy: QueuePolicy) -> queue_policy.QueuePolicy:
    """A request's own timeout counts, unless the operator has set one and did not allow another."""
    return queue_policy.QueuePolicy(
        queue_policy.TimeoutAction[policy.timeout_action],
        policy.default_timeout_seconds,
        policy.allow_timeout_override or policy.default_timeout_seconds == 0,
        policy.max_queue_size,
    )
