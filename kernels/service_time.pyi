"""What a batch takes, learned online from what batches took. Knows no queue and no clock."""

class ServiceTime:
    """What a batch takes: an exponentially forgetting least-squares fit of `alpha * rows + tau`, in seconds.

    Neither part is ever negative. As long as all batches have one size, it predicts their mean for every size, or keeps
    the slope that earlier sizes have shown. One surprisingly slow batch is left out, several in a row are believed; a
    surprisingly fast one is believed at once, so that a slow first batch does not linger.
    """

    alpha: float
    tau: float
    observations: int
    deviation: float
    """The mean of |observed / predicted - 1|, once there are a few observations."""

    def __init__(self) -> None: ...
    def add(self, rows: int, seconds: float) -> None:
        """Takes in what a batch of `rows` rows took. Nonsense (no rows, no time, NaN) is ignored."""

    def estimate(self, rows: int) -> float:
        """The prediction for a batch of `rows` rows; 0 before the first observation."""

    def estimate_cautiously(self, rows: int) -> float:
        """The prediction and a margin for how much batches deviate from it: what the queue refuses and drops by."""
