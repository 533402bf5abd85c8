"""Exchanges in the order they came, apart by group: the line of one priority level.

A `Fifo` holds the exchanges of one group, linked through themselves, so that joining and leaving allocate nothing. A
`Fifos` holds the groups and knows which one's head is oldest. Neither knows a priority, a policy or a clock. All of it
is for Cython: see fifos.pxd.
"""

class Fifo:
    """The exchanges of one group, oldest first. It also remembers whether they expire in the order they stand in, so
    that whoever looks for expired ones may stop at the first that is not."""

class Fifos:
    """All groups of one line. Empty ones are kept for a while, because their group usually comes back."""
