"""What a process may write: one folder, by Landlock. Works without privileges and is inherited over fork. Reading is
left as it is, because interpreters and libraries read all over the machine."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
# Removing folders and files, and making anything of seven kinds.
_CHANGE_FOLDER = sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13
# What each version of the interface added, up to the one that has all that is needed here.
_RIGHTS = {1: _WRITE_FILE | _CHANGE_FOLDER, 2: _REFER, 3: _TRUNCATE}


def write_only_below(folder: Path) -> bool:
    """From here on, and in every child, nothing outside of `folder` can be made, written, renamed or removed; /dev/null
    stays. False where the kernel cannot do this; nothing has changed then.

    Raises:
        OSError: the folder cannot be opened, or the kernel refused what it says it can.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return False
    handled = sum(rights for since, rights in _RIGHTS.items() if since <= version)
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, 8, 0))
    try:
        for path, rights in ((folder, handled), (Path(os.devnull), handled & (_WRITE_FILE | _TRUNCATE))):
            _allow(libc, ruleset, path, rights)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, opened), 12)
        _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(opened)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
