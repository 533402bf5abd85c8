"""What a confined process cannot do, tried in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from sanitized import limits_memory

from gateway.workers.spec import Description, Exit, InstanceSpec, TensorSpec, WarmupBatch, WarmupInput
from gateway.workers.zygote import OutputBudget

ROOT = Path(__file__).parents[2]


def confined(code: str) -> str:
    """What `code` prints after the network has been denied."""
    head = "import ctypes, os, resource, socket\nfrom gateway.workers import confine\nassert confine.deny_network()\n"
    done = subprocess.run([sys.executable, "-c", head + code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_network_socket_can_be_opened_and_unix_sockets_can() -> None:
    code = """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_RAW if family > 10 else socket.SOCK_STREAM)
    except PermissionError:
        print("refused", end=" ")
socket.socket(socket.AF_UNIX).close()
a, b = socket.socketpair()
print("unix")
"""
    assert confined(code) == "refused refused refused refused unix"


def test_children_are_confined_too() -> None:
    code = """
pid = os.fork()
if pid == 0:
    try:
        socket.socket()
    except PermissionError:
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert confined(code) == "7"


def test_other_processes_cannot_be_looked_into_and_rings_not_set_up() -> None:
    code = """
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
print(libc.ptrace(16, parent, 0, 0), ctypes.get_errno(), end=" ")
print(libc.process_vm_readv(parent, None, 0, None, 0, 0), ctypes.get_errno(), end=" ")
print(libc.syscall(425, 8, None), ctypes.get_errno())
"""
    assert confined(code) == "-1 13 -1 13 -1 13"


@limits_memory
def test_limits_are_lowered_and_never_raised() -> None:
    code = """
confine.limit_resources(open_files=100, address_space_bytes=1 << 40)
confine.limit_resources(open_files=200, address_space_bytes=1 << 41)
print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE),
      resource.getrlimit(resource.RLIMIT_AS)[0] == 1 << 40)
"""
    assert confined(code) == "(100, 100) (0, 0) True"


def test_a_process_whose_parent_is_gone_already_ends() -> None:
    assert confined("print('before', flush=True)\nconfine.die_with_parent(1 << 21)\nprint('after')") == "before"


# What is passed on of a worker's output


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100_000)), max_size=40))
def test_no_more_output_passes_than_the_burst_and_the_rate_allow(writes: list[tuple[float, int]]) -> None:
    now, passed, written = 50.0, 0, 0
    budget = OutputBudget(now, burst=1000, rate=100)
    for pause, size in writes:
        now += pause
        passed += len(budget.take(now, bytes(size)))
        written += size
        assert passed <= 1000 + 100 * (now - 50.0) + 1e-6
    assert budget.dropped == written - passed


def test_a_little_output_passes_whole() -> None:
    budget = OutputBudget(0.0, burst=100, rate=10)
    assert budget.take(0.0, b"hello") == b"hello"
    assert budget.dropped == 0


# What crosses the control socket


@given(
    st.builds(
        InstanceSpec,
        model=st.text(max_size=9),
        version=st.sampled_from(["1", "20"]),
        path=st.just(Path("/a/b c/model.onnx")),
        max_batch_size=st.integers(0, 512),
        parameters=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        graph_level=st.none() | st.integers(-1, 2),
        warmup=st.lists(
            st.builds(
                WarmupBatch,
                name=st.text(max_size=5),
                batch_size=st.integers(0, 9),
                inputs=st.lists(
                    st.builds(
                        WarmupInput,
                        name=st.text(max_size=5),
                        datatype=st.sampled_from(["FP32", "BYTES"]),
                        shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
                        data=st.sampled_from(["zero", "random", "file"]),
                        file=st.text(max_size=5),
                    ),
                    max_size=2,
                ).map(tuple),
                count=st.integers(1, 3),
            ),
            max_size=2,
        ).map(tuple),
    )
)
def test_a_spec_survives_the_way_to_a_worker(spec: InstanceSpec) -> None:
    assert InstanceSpec.from_json(spec.to_json()) == spec


def test_a_description_survives_the_way_back() -> None:
    tensor = TensorSpec("x", "FP32", (-1, 3))
    description = Description((tensor,), (tensor, tensor), 12345, ((1, 0.5), (8, 0.75)))
    assert Description.from_json(description.to_json()) == description


def test_an_end_reads_as_a_sentence() -> None:
    assert str(Exit(status=3)) == "exited with status 3"
    assert str(Exit(signal=9)) == "was killed by SIGKILL"
    assert str(Exit(signal=99)) == "was killed by signal 99"
    assert str(Exit()) == "ended unseen"
