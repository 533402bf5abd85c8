"""An immutable table from a model's name to what serves it. Changing a route is building a table and swapping it."""

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from kernels.rollout import Rollout

Target = TypeVar("Target")

class ModelRoute(Generic[Target]):
    """One model: the target of calls that name no version (None while there is none), and one target a version.

    A version that exists and is not ready maps to None. Without a default, a model that has such a version is not
    ready, and one that has none has no versions.

    An alias stands for the version of that name wherever a call names one, and is not ready when that is not. A rollout
    divides the calls that name none; the default is then its stable version.
    """

    default: Target | None
    versions: dict[str, Target | None]
    aliases: dict[str, str]
    rollout: Rollout[Target] | None
    def __init__(
        self,
        default: Target | None,
        versions: Mapping[str, Target | None],
        aliases: Mapping[str, str] = ...,
        rollout: Rollout[Target] | None = None,
    ) -> None: ...

class RouteTable(Generic[Target]):
    models: dict[str, ModelRoute[Target]]
    def __init__(self, models: Mapping[str, ModelRoute[Target]] = ...) -> None: ...
    def lookup(
        self, model: str, version: str = ""
    ) -> tuple[
        Target | None, Literal["found", "unknown_model", "no_versions", "unknown_version", "version_not_ready"]
    ]:
        """The target, or None and why there is none."""
