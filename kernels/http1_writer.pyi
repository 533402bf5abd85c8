"""Answers of one HTTP/1 connection as bytes, for the native protocol alone."""

from kernels.outbox import Outbox

class Http1Writer(Outbox):
    """Nothing to call from Python."""
