"""The one object a request has, and the two roles that pass it on.

None of these is made or driven from Python: connections are sinks, the dispatcher is the intake.
"""

class Exchange:
    """Identity, tensor views, deadline, timings, outcome and answer of one request; recycled by its intake."""

class ReplySink:
    """Where an answer goes. Owns an answered exchange until it gives it back to the intake."""

class Intake:
    """Where requests go in: each is answered exactly once through its sink, unless it is cancelled before."""
