"""The writing side of one connection, for the native protocols alone: one buffer, one system call per wake-up."""

class Outbox:
    """Nothing to call from Python."""

    is_tls: bool
