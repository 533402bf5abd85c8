"""Requests for versions that are still to be loaded. The dispatcher decides who enters and who leaves."""

class ParkingLot:
    """A bounded list of requests, oldest first."""

    count: int
    nbytes: int
    """Of the bodies, and of the tensors decoded from them."""
    max_count: int
    max_bytes: int
    def __init__(self, max_count: int, max_bytes: int) -> None: ...
