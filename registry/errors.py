"""Everything that the registry raises on purpose.

RegistryError
├── SourceUnavailable    the place that versions come from cannot be read; nothing follows about what it holds
├── InvalidPolicy        a version policy that no set of versions can satisfy
└── StagingFailed        the bytes of one version could not be taken over
    └── ChangedWhileRead a file is not what the source announced

They carry facts; sentences for users are made by whoever catches them.
"""

from __future__ import annotations


class RegistryError(Exception):
    """The root. `str()` is for logs: the class and its facts."""

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({facts})"


class SourceUnavailable(RegistryError):
    """`place` cannot be read now. What it held a moment ago is neither confirmed nor gone."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason


class InvalidPolicy(RegistryError):
    """`field` of a version policy has a value that makes no sense."""

    def __init__(self, field: str, value: object) -> None:
        self.field = field
        self.value = value


class StagingFailed(RegistryError):
    """`path` could not be taken over."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class ChangedWhileRead(StagingFailed):
    """`path` is not the file that the source announced: it was replaced or written to since."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "changed while it was read")
