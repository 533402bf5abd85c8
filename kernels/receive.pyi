"""The memory that all connections of one event loop read into.

A transport reads straight after it asked for the buffer and hands the bytes over at once, so one buffer serves every
connection of a loop. It knows no protocol.
"""

class ReceiveBuffer:
    """`size` writable bytes (256 KiB by default) with readable padding behind them.

    What a protocol has not consumed when its `buffer_updated` returns it must have copied: the next read of any
    connection overwrites it. `small_view` is the first 64 KiB of `view`, for a protocol that copies what it reads.
    """

    size: int
    view: memoryview
    small_view: memoryview

    def __init__(self, size: int = 262144) -> None:
        """Raise ValueError when `size` is 0 and MemoryError when there is no room."""
