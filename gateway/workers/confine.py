"""What a worker process may not do: outlive the gateway, open network connections, look into its siblings, dump core.

All of it works without privileges and is inherited over fork. Nothing here knows a model.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

# Per machine: its audit number, and the system calls that the filter names.
_MACHINES = {
    "x86_64": (0xC000003E, {"socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311}),
    "aarch64": (0xC00000B7, {"socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271}),
}
_IO_URING_SETUP = 425  # the same everywhere: opens sockets without the socket call
_AF_UNIX = 1
_EACCES = 13

_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | _EACCES


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that made it ends; exits at once if `parent` is gone
    already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def limit_resources(*, open_files: int = 256, address_space_bytes: int = 0) -> None:
    """No core files, few descriptors and, unless 0, a bounded address space. Never raises a limit."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: open_files}
    if address_space_bytes:
        limits[resource.RLIMIT_AS] = address_space_bytes
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        bounded = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bounded, bounded))


def yield_to_others(*, nice: int, oom_score_adj: int) -> None:
    """Be the one that waits for a core, and the one that the kernel ends when memory runs out."""
    if nice:
        os.nice(nice)
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if oom_score_adj > int(file.read()):
                file.seek(0)
                file.write(str(oom_score_adj))
    except OSError:
        pass  # a container without /proc: the kernel's own judgement has to do


def deny_network() -> bool:
    """From here on, and in every child: no sockets but Unix ones, no look into other processes. False where the machine
    is one whose system calls are not known here, or the kernel cannot filter; nothing has changed then."""
    known = _MACHINES.get(platform.machine())
    if known is None:
        return False
    program = b"".join(_filter(*known))
    code = ctypes.create_string_buffer(program)
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head)
    except OSError:
        return False
    return True


def _filter(audit: int, calls: dict[str, int]) -> list[bytes]:
    refused = [number for name, number in calls.items() if name != "socket"] + [_IO_URING_SETUP]
    allow, refuse = len(refused) + 8, len(refused) + 9
    # (operation, goes to when true, goes to when false, operand); a target of 0 is the next instruction. Offsets into
    # seccomp_data: 0 the call, 4 the machine, 16 the first argument. x86-64 also answers to x32 numbers, from 2**30 on.
    steps = [
        (_LOAD_WORD, 0, 0, 4),
        (_JUMP_EQUAL, 3, 0, audit),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_AT_LEAST, refuse, 0, 0x40000000),
        *((_JUMP_EQUAL, refuse, 0, number) for number in refused),
        (_JUMP_EQUAL, 0, allow, calls["socket"]),
        (_LOAD_WORD, 0, 0, 16),
        (_JUMP_EQUAL, allow, refuse, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return [
        struct.pack("HBBI", operation, *(max(target - at - 1, 0) for target in (yes, no)), operand)
        for at, (operation, yes, no, operand) in enumerate(steps)
    ]


def _prctl(option: int, first: int, second: bytes | int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.c_char_p(second) if isinstance(second, bytes) else ctypes.c_ulong(second)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(first), argument, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
