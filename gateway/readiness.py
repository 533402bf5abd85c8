"""Whether a server is ready, as load balancers ask: one model that is broken should not take the others away."""

from __future__ import annotations

from collections.abc import Collection

from gateway.followed import Followed
from gateway.lifecycle import State


def are_ready(models: Collection[Followed], *, is_strict: bool) -> bool:
    """Whether the wanted models are ready, those left out that are loaded on demand.

    At first, all that can come up must have. From then on a model takes the server out when it answered and does not
    any more; one that never answered, or that nothing may be served of, does not. A server of which no model answers
    is not ready. With `is_strict`, and for a model that is required by name, nothing but an answering version will do.
    """
    if is_strict:
        return all(model.has_come_out and _answers(model) for model in models)
    early = [model for model in models if not model.is_late and (model.chosen or model.problem)]
    return all(_is_fine(model) for model in models) and (not early or any(_answers(model) for model in models))


def _is_fine(model: Followed) -> bool:
    if model.is_required:
        return model.has_come_out and _answers(model)
    if model.has_answered and model.chosen and not _answers(model):
        return False
    return model.is_late or model.has_come_out or not (model.chosen or model.is_awaited)


def _answers(model: Followed) -> bool:
    return bool(model.in_state(State.READY))
