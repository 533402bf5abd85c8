"""The audit log as a chain: each entry's hash covers the entry before it, so that a change anywhere shows. Pure: it
knows how entries are hashed, checked and exported, and nothing of the database that keeps them.

Whoever can write to the database can write a whole new chain. Against that, keep the hash of the newest entry somewhere
else from time to time, and hand it to the check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from registry.manifest import canonical_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One change of what is served."""

    seq: int
    """1, 2, 3 … without gaps."""
    at: str
    """ISO 8601, in UTC."""
    actor: str
    action: str
    target: str
    """`model`, `model/version` or `model@alias`."""
    before: Any
    """JSON value: what the change replaced, digests included; None when there was nothing."""
    after: Any
    reason: str
    previous: str
    """Hash of the entry before; of the first one, zeros."""
    hash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, in the order of the fields."""
        return dict(self.__dict__)

    def sealed(self) -> AuditEntry:
        """The same with its hash."""
        return replace(self, hash=_hash(self))


@dataclass(frozen=True)
class BadEntry:
    """The first entry that is not as it was written, and why one can tell."""

    seq: int
    reason: str


@dataclass(frozen=True)
class Head:
    """Number and hash of the newest entry."""

    seq: int
    hash: str


def check_chain(entries: Iterable[AuditEntry], head: Head, anchors: Iterable[Head] = ()) -> BadEntry | None:
    """The first bad entry of a whole log in order; None when it is as it was written.

    Args:
        head: as it is kept beside the log. A log that ends before or after it was cut or added to.
        anchors: heads noted earlier, elsewhere.
    """
    expected: dict[int, str] = {}
    for anchor in (*anchors, head):
        if anchor.seq and expected.setdefault(anchor.seq, anchor.hash) != anchor.hash:
            return BadEntry(anchor.seq, "not the entry that was noted under this number")
    previous, last = GENESIS, 0
    for entry in entries:
        if entry.seq != last + 1:
            return BadEntry(last + 1, "missing" if entry.seq > last else "out of order")
        if entry.previous != previous:
            return BadEntry(entry.seq, "does not follow the entry before it")
        if entry.hash != _hash(entry):
            return BadEntry(entry.seq, "changed since it was written")
        if expected.pop(entry.seq, entry.hash) != entry.hash:
            return BadEntry(entry.seq, "not the entry that was noted under this number")
        previous, last = entry.hash, entry.seq
    if last != head.seq:
        return BadEntry(min(last, head.seq) + 1, "missing" if last < head.seq else "added behind the end")
    if expected:
        return BadEntry(last + 1, "missing")
    return None


def to_json_lines(entries: Iterable[AuditEntry]) -> Iterator[str]:
    """One line of canonical JSON an entry, without the line break."""
    return (canonical_json(entry.to_dict()) for entry in entries)


def from_json_lines(lines: Iterable[str]) -> Iterator[AuditEntry]:
    """Reads an export back, to be checked.

    Raises:
        ValueError: a line is no entry.
    """
    for line in lines:
        try:
            yield AuditEntry(**json.loads(line))
        except TypeError as error:
            raise ValueError(f"not an audit entry: {error}") from None


def _hash(entry: AuditEntry) -> str:
    plain = entry.to_dict()
    previous = plain.pop("previous")
    del plain["hash"]
    return hashlib.sha256(f"{previous}\n{canonical_json(plain)}".encode()).hexdigest()
