"""What differs when the tests run under AddressSanitizer: see `make sanitize`."""

from __future__ import annotations

import os

import pytest

IS_SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

catches_signals = pytest.mark.skipif(IS_SANITIZED, reason="AddressSanitizer turns SIGSEGV into SIGABRT")
limits_memory = pytest.mark.skipif(IS_SANITIZED, reason="AddressSanitizer needs more address space than the limit")


def plain_environment() -> dict[str, str]:
    """The environment for programs that are not ours."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
