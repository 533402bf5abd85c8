"""How much memory a process has for itself. Workers share most of what they map with the zygote, and lanes with the
gateway: the resident size that tools show counts those pages once for each."""

from __future__ import annotations


def private_bytes(pid: int | str = "self") -> int:
    """Resident memory that only this process has; 0 when it cannot be seen."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
    except OSError:
        return 0
