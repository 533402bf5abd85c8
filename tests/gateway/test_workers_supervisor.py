"""Real worker processes: they load, answer, crash, hang, babble and leak, and nobody else notices."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
import uvloop
from sanitized import catches_signals, limits_memory
from worker_backends import BABBLE, ECHO, EXIT, HANG, LEAK, OVERFLOW, PRINT, RAISE, REFUSE, SEGFAULT
from worker_house import House, Refused, house, infer, put, result

from gateway.errors import LoadFailed
from gateway.settings import WorkersSettings
from gateway.workers import supervisor
from gateway.workers.instance import Instance
from gateway.workers.spec import Exit, InstanceSpec, TensorSpec

SCRIPTED = InstanceSpec(
    "scripted", "1", Path("none"), backend="worker_backends:Scripted", max_batch_size=8, slot_bytes=1024 * 1024
)


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    with house() as opened:
        yield opened


@pytest.fixture
def tabular(tmp_path: Path) -> InstanceSpec:
    path = models.save(models.tabular(), tmp_path / "tabular" / "1" / "model.onnx")
    return InstanceSpec("tabular", "1", path, max_batch_size=32, slot_bytes=1024 * 1024)


def command(number: int) -> np.ndarray:
    return np.array([[number]], np.int64)


def loading(behaviour: str) -> InstanceSpec:
    return replace(SCRIPTED, parameters={"on_load": behaviour})


# Loading and answering


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_launched_instance_is_loaded_warm_and_answers(
    tabular: InstanceSpec, new_loop: Callable[[], asyncio.AbstractEventLoop], start_method: str
) -> None:
    features = np.random.default_rng(1).random((5, 30), np.float32)
    with house(new_loop=new_loop, start_method=start_method) as home:
        instance = home.launch(tabular)
        assert instance.inputs == (TensorSpec("features", "FP32", (-1, 30)),)
        assert instance.outputs == (TensorSpec("scores", "FP32", (-1, 2)),)
        assert instance.memory_bytes > 0
        assert [rows for rows, _ in instance.description.timings] == [1, 32]
        expected = models.expected(models.tabular(), features=features)["scores"]
        for _ in range(5):  # both slots, and from the third on bound to them
            (scores,) = home.infer(instance, features)
            np.testing.assert_allclose(scores, expected, rtol=1e-5)
        assert home.run(instance.stop(5.0)) == Exit(status=0, is_expected=True)
        assert home.exits == [(instance, Exit(status=0, is_expected=True))]


def test_a_model_is_described_without_being_served(shared: House, tabular: InstanceSpec) -> None:
    description = shared.run(shared.supervisor.describe(tabular.path))
    assert description.inputs == (TensorSpec("features", "FP32", (-1, 30)),)
    assert description.timings == ()


def test_a_batch_size_that_varies_gives_each_its_own_rows(shared: House, tabular: InstanceSpec) -> None:
    instance = shared.launch(tabular)
    random = np.random.default_rng(2)
    for rows in [1, 2, 3, 32, 2, 1, 1, 1, 32, 32, 3, 3, 3]:
        features = random.random((rows, 30), np.float32)
        (scores,) = shared.infer(instance, features)
        expected = models.expected(models.tabular(), features=features)["scores"]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    shared.run(instance.stop(5.0))


def test_two_batches_lie_in_a_lane_and_are_answered_in_order(shared: House, tabular: InstanceSpec) -> None:
    instance = shared.launch(tabular)
    first, second = np.zeros((1, 30), np.float32), np.ones((4, 30), np.float32)
    put(instance, first)
    put(instance, second)
    assert [len(shared.run(result(instance.lane))[0]) for _ in range(2)] == [1, 4]
    shared.run(instance.stop(5.0))


def test_a_stopping_worker_finishes_what_lies_in_its_lane(shared: House, tabular: InstanceSpec) -> None:
    harvested = []

    def harvest(instance: Instance, exit: Exit) -> None:
        while (answer := instance.lane.get()) is not None:
            harvested.append(answer)

    instance = shared.run(shared.supervisor.launch(tabular, harvest))
    put(instance, np.zeros((2, 30), np.float32))
    put(instance, np.zeros((3, 30), np.float32))
    assert shared.run(instance.stop(5.0)).status == 0
    assert [shape for _, _, _, [(_, _, shape, _)] in harvested] == [(2, 2), (3, 2)]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param("crash", "was killed by SIGSEGV while it loaded", marks=catches_signals),
        ("refuse", "it does not feel like it"),
        ("raise", "the backend failed: RuntimeError"),
        ("exit", "exited with status 3 while it loaded"),
        ("leave a child", "exited with status 3 while it loaded"),
        pytest.param("last words", "saying: something broke deep inside", marks=catches_signals),
    ],
)
def test_a_model_that_cannot_load_says_why(shared: House, behaviour: str, reason: str) -> None:
    with pytest.raises(LoadFailed) as failure:
        shared.launch(loading(behaviour))
    assert reason in failure.value.reason
    assert "hunter2" not in failure.value.reason
    assert (failure.value.model, failure.value.version) == ("scripted", "1")


@pytest.mark.parametrize("content", [models.BROKEN, models.truncated(), b""], ids=["broken", "truncated", "empty"])
def test_a_broken_file_is_refused_without_telling_where_it_lies(shared: House, tmp_path: Path, content: bytes) -> None:
    path = models.save(content, tmp_path / "model.onnx")
    with pytest.raises(LoadFailed) as failure:
        shared.launch(InstanceSpec("broken", "1", path))
    assert failure.value.reason
    assert str(tmp_path) not in failure.value.reason


def test_a_missing_file_is_refused(shared: House, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot be read"):
        shared.launch(InstanceSpec("missing", "1", tmp_path / "model.onnx"))


def test_a_backend_that_is_not_ours_is_refused_unless_the_supervisor_allows_any(tmp_path: Path) -> None:
    with house(allow_any_backend=False) as home, pytest.raises(LoadFailed, match="is unknown"):
        home.launch(SCRIPTED)


def test_a_load_that_hangs_is_ended_by_the_timeout() -> None:
    with house(WorkersSettings(start_timeout_seconds=0.2)) as home:
        with pytest.raises(LoadFailed, match=r"not ready within 0\.2 seconds"):
            home.launch(loading("hang"))
        home.run(_until(lambda: _workers(home) == []))


def test_a_launch_without_descriptors_left_fails_as_a_load_does(shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lane(slot_bytes: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "Lane", no_lane)
        with pytest.raises(LoadFailed, match="Too many open files"):
            shared.launch(SCRIPTED)
    shared.run(shared.launch(SCRIPTED).stop(5.0))


def test_a_cancelled_launch_leaves_no_process_and_no_descriptor(shared: House) -> None:
    async def launch_and_cancel(turns: int) -> None:
        launching = asyncio.ensure_future(shared.supervisor.launch(loading("hang"), shared.on_exit))
        for _ in range(turns):
            await asyncio.sleep(0)
        launching.cancel()
        await asyncio.gather(launching, return_exceptions=True)

    for turns in range(6):
        shared.run(launch_and_cancel(turns))
    # A worker that answers now was forked after all of those, so their ends have been reported too.
    shared.run(shared.launch(SCRIPTED).stop(5.0))
    before = _descriptors()
    for turns in range(6):
        shared.run(launch_and_cancel(turns))
    shared.run(shared.launch(SCRIPTED).stop(5.0))
    shared.run(_until(lambda: _workers(shared) == []))
    assert _descriptors() <= before


def test_many_starts_and_stops_leak_nothing(shared: House, tabular: InstanceSpec) -> None:
    for _ in range(2):
        shared.run(shared.launch(tabular).stop(5.0))
    before = _descriptors()
    for _ in range(10):
        shared.run(shared.launch(tabular).stop(5.0))
    assert _descriptors() == before
    assert _workers(shared) == []


# Misbehaving while serving


def test_an_engine_error_fails_its_batch_and_the_worker_lives_on(shared: House, tmp_path: Path) -> None:
    path = models.save(models.picky(rows=8), tmp_path / "model.onnx")
    instance = shared.launch(InstanceSpec("picky", "1", path, max_batch_size=8, slot_bytes=65536))
    for _ in range(3):
        with pytest.raises(Refused, match="out of data bounds") as refused:
            shared.infer(instance, np.array([[1], [99]], np.int64))
        assert refused.value.code == 13
        (picked,) = shared.infer(instance, np.array([[1], [7]], np.int64))
        assert picked[:, 0].tolist() == [4.0, 28.0]
    assert instance.is_alive
    shared.run(instance.stop(5.0))


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (RAISE, 13, "the backend failed: RuntimeError"),
        (REFUSE, 9, "not these rows"),
        (OVERFLOW, 13, "outputs exceed the slot's 1048576 bytes"),
    ],
)
def test_a_failing_batch_is_told_no_secrets(shared: House, number: int, code: int, message: str) -> None:
    instance = shared.launch(SCRIPTED)
    with pytest.raises(Refused) as refused:
        shared.infer(instance, command(number))
    assert (refused.value.code, refused.value.message) == (code, message)
    assert shared.infer(instance, command(ECHO))[0].tolist() == [[0]]
    shared.run(instance.stop(5.0))


@pytest.mark.parametrize(
    ("number", "exit"),
    [
        pytest.param(SEGFAULT, Exit(signal=signal.SIGSEGV), marks=catches_signals, id="segfault"),
        pytest.param(EXIT, Exit(status=4), id="exit"),
    ],
)
def test_a_crash_while_serving_is_reported_with_how_it_ended(shared: House, number: int, exit: Exit) -> None:
    instance, other = shared.launch(SCRIPTED), shared.launch(SCRIPTED)
    put(instance, command(number))
    assert replace(shared.end_of(instance), last_words="") == exit
    assert not instance.is_alive
    assert shared.infer(other, command(ECHO))[0].tolist() == [[0]]
    shared.run(other.stop(5.0))


def test_a_worker_killed_from_outside_is_noticed(shared: House) -> None:
    instance = shared.launch(SCRIPTED)
    os.kill(instance.pid, signal.SIGKILL)
    assert shared.end_of(instance) == Exit(signal=signal.SIGKILL)
    assert shared.run(instance.stop(1.0)) == Exit(signal=signal.SIGKILL)


def test_a_hung_worker_is_killed_on_demand(shared: House) -> None:
    instance = shared.launch(SCRIPTED)
    put(instance, command(HANG))
    instance.kill()
    assert shared.end_of(instance) == Exit(signal=signal.SIGKILL)
    instance.kill()


def test_a_hung_worker_is_killed_when_it_does_not_stop_in_time(shared: House) -> None:
    instance = shared.launch(SCRIPTED)
    put(instance, command(HANG))
    assert shared.run(instance.stop(0.05)) == Exit(signal=signal.SIGKILL, is_expected=True)


def test_a_model_that_spins_is_killed_as_well(shared: House, tmp_path: Path) -> None:
    path = models.save(models.spinning(), tmp_path / "model.onnx")
    instance = shared.launch(InstanceSpec("spinning", "1", path, max_batch_size=4, slot_bytes=65536))
    put(instance, np.array([[2**40]], np.int64), np.ones((1, 128), np.float32))
    assert shared.run(instance.stop(0.05)).signal == signal.SIGKILL


def test_signals_for_the_service_do_not_end_workers(shared: House) -> None:
    instance = shared.launch(SCRIPTED)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(instance.pid, number)
    assert shared.infer(instance, command(ECHO))[0].tolist() == [[0]]
    shared.run(instance.stop(5.0))


def test_megabytes_of_garbage_on_its_streams_hurt_nobody(shared: House, caplog: pytest.LogCaptureFixture) -> None:
    instance = shared.launch(SCRIPTED)
    with caplog.at_level(logging.INFO, "sluice.workers"):
        assert shared.infer(instance, command(BABBLE))[0].tolist() == [[BABBLE]]
    shared.run(instance.stop(5.0))
    assert sum(len(record.getMessage()) for record in caplog.records) < 128 * 1024


def test_what_a_worker_prints_is_logged_and_cannot_be_taken_for_its_answer(
    shared: House, caplog: pytest.LogCaptureFixture
) -> None:
    instance = shared.launch(SCRIPTED)
    with caplog.at_level(logging.INFO, "sluice.workers"):
        assert shared.infer(instance, command(PRINT))[0].tolist() == [[PRINT]]
        shared.run(instance.stop(5.0))
    lines = [record for record in caplog.records if getattr(record, "action", "") == "worker-output"]
    assert [line.getMessage() for line in lines] == ['{"event":"ready"}', "\N{REPLACEMENT CHARACTER}[31mred"]
    assert {(line.model, line.version) for line in lines} == {("scripted", "1")}  # type: ignore[attr-defined]


@limits_memory
def test_a_leak_shows_in_its_memory_and_ends_at_its_limit() -> None:
    with house(WorkersSettings(address_space_bytes=768 * 1024**2)) as home:
        instance = home.launch(SCRIPTED)
        before = instance.measure_memory()
        home.infer(instance, command(LEAK))
        assert instance.measure_memory() - before >= 1 << 24

        async def leak() -> None:
            for _ in range(200):
                await infer(instance, command(LEAK))

        with pytest.raises(Refused, match="the model ran out of memory"):
            home.run(leak())
        assert instance.is_alive


# What a worker may do


def test_a_worker_has_no_secrets_in_its_environment() -> None:
    secret = {"AWS_SECRET_ACCESS_KEY": "hunter2", "HOME": "/home/someone"}
    with house(environment={**os.environ, **secret, "PATH": "/usr/bin"}) as home:
        instance = home.launch(SCRIPTED)
        environment = Path(f"/proc/{instance.pid}/environ").read_text()
        assert "hunter2" not in environment
        assert "PATH=/usr/bin" in environment
        assert "HOME=" not in environment


def test_a_worker_is_limited_and_has_only_its_own_descriptors(shared: House) -> None:
    first, second = shared.launch(SCRIPTED), shared.launch(SCRIPTED)
    limits = Path(f"/proc/{second.pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
    assert limits.split("Max open files")[1].split()[:2] == ["256", "256"]
    # Streams, control socket, lane memory and its two doorbells.
    assert len(os.listdir(f"/proc/{second.pid}/fd")) == 7
    assert int(Path(f"/proc/{second.pid}/oom_score_adj").read_text()) >= 500
    status = Path(f"/proc/{second.pid}/status").read_text()
    assert status.split("NoNewPrivs:")[1].split()[0] == "1"
    assert status.split("Threads:")[1].split()[0] == "1"
    for instance in (first, second):
        shared.run(instance.stop(5.0))


def test_niceness_is_the_one_that_is_set() -> None:
    with house(WorkersSettings(nice=7)) as home:
        instance = home.launch(SCRIPTED)
        assert os.getpriority(os.PRIO_PROCESS, instance.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 7


def test_a_thread_that_a_model_starts_does_not_keep_others_from_starting(shared: House) -> None:
    threaded = shared.launch(loading("start a thread"))
    assert len(os.listdir(f"/proc/{threaded.pid}/task")) == 2
    after = shared.launch(SCRIPTED)
    assert shared.infer(after, command(ECHO))[0].tolist() == [[0]]
    for instance in (threaded, after):
        shared.run(instance.stop(5.0))


def test_the_zygote_has_one_thread_and_no_telemetry_of_the_engine(shared: House) -> None:
    zygote = shared.supervisor._zygote
    assert zygote is not None
    assert len(os.listdir(f"/proc/{zygote.pid}/task")) == 1
    assert "ORT_DISABLE_TELEMETRY=1" in Path(f"/proc/{zygote.pid}/environ").read_text()
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{zygote.pid}/fd")]
    assert not [link for link in links if "onnxruntime" in link]


# The zygote's death and ours


def test_when_the_zygote_dies_its_workers_end_and_the_next_one_serves() -> None:
    with house() as home:
        instance = home.launch(SCRIPTED)
        zygote = home.supervisor._zygote
        assert zygote is not None
        os.kill(zygote.pid, signal.SIGKILL)
        home.end_of(instance)
        assert _is_gone(instance.pid)
        again = home.launch(SCRIPTED)
        assert home.infer(again, command(ECHO))[0].tolist() == [[0]]


def test_a_launch_that_the_zygotes_death_interrupts_is_tried_again() -> None:
    with house() as home:

        async def interrupted() -> None:
            launching = asyncio.ensure_future(home.supervisor.launch(SCRIPTED, home.on_exit))
            await asyncio.sleep(0)
            zygote = home.supervisor._zygote
            assert zygote is not None
            os.kill(zygote.pid, signal.SIGKILL)
            instance = await launching
            assert (await infer(instance, command(ECHO)))[0].tolist() == [[0]]

        home.run(interrupted())


def test_a_zygote_that_dies_without_having_read_its_requests_is_noticed() -> None:
    with house() as home:
        lost = home.launch(SCRIPTED)

        async def launch_over_its_death() -> None:
            zygote = home.supervisor._zygote
            assert zygote is not None
            os.kill(zygote.pid, signal.SIGSTOP)
            os.kill(lost.pid, signal.SIGKILL)
            launches = [asyncio.ensure_future(home.supervisor.launch(SCRIPTED, home.on_exit)) for _ in range(4)]
            for _ in range(3):
                await asyncio.sleep(0)
            os.kill(zygote.pid, signal.SIGKILL)
            for instance in await asyncio.gather(*launches):
                assert (await infer(instance, command(ECHO)))[0].tolist() == [[0]]

        home.run(launch_over_its_death())


def test_a_launch_after_or_during_the_stop_fails_at_once() -> None:
    with house() as home:

        async def stop_while_launching() -> None:
            launching = asyncio.ensure_future(home.supervisor.launch(loading("hang"), home.on_exit))
            for _ in range(5):
                await asyncio.sleep(0)
            await home.supervisor.stop()
            with pytest.raises(LoadFailed, match="is stopping"):
                await launching
            with pytest.raises(LoadFailed, match="is stopping"):
                await home.supervisor.launch(SCRIPTED, home.on_exit)

        home.run(stop_while_launching())


def test_stopping_the_supervisor_ends_every_worker_that_is_left() -> None:
    with house() as home:
        pids = [home.launch(SCRIPTED).pid for _ in range(3)]
    assert all(_is_gone(pid) for pid in pids)


GATEWAY = """
import asyncio, os, sys
from pathlib import Path
from gateway.workers.spec import InstanceSpec
from gateway.workers.supervisor import Supervisor

async def main():
    supervisor = Supervisor(allow_any_backend=True, python_path=[Path(sys.argv[1])])
    await supervisor.start()
    spec = InstanceSpec("scripted", "1", Path("none"), backend="worker_backends:Scripted")
    instance = await supervisor.launch(spec, lambda *_: None)
    print(supervisor._zygote.pid, instance.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_nothing_outlives_a_gateway_that_is_killed(shared: House) -> None:
    async def run() -> None:
        root = Path(__file__).parents[2]
        gateway = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GATEWAY, str(root / "tests"), cwd=root, stdout=asyncio.subprocess.PIPE
        )
        assert gateway.stdout is not None
        pids = [int(pid) for pid in (await gateway.stdout.readline()).split()]
        pidfds = [os.pidfd_open(pid) for pid in pids]
        gateway.kill()
        await gateway.wait()
        for pidfd in pidfds:
            await _readable(pidfd)
            os.close(pidfd)

    shared.run(run())


async def _readable(fd: int) -> None:
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what the kernel's own tables say, which ring no bell
        await asyncio.sleep(0)


def _workers(home: House) -> list[int]:
    zygote = home.supervisor._zygote
    assert zygote is not None
    return [int(pid) for pid in Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
