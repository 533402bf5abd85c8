"""Everything that Sluice raises on purpose.

SluiceError
├── RequestError                  what one caller asked for cannot be done; the next caller's may
│   ├── InvalidRequest            the request contradicts itself or the protocol
│   ├── UnknownModel              no model has that name
│   │   ├── UnknownVersion        the model has no such version
│   │   └── NoVersionAvailable    the model is known, and none of its versions may be served
│   ├── NoStatistics              statistics of a model that serves nothing
│   ├── VersionNotReady           the version exists and is not ready
│   ├── Unsupported               the protocol has it, Sluice does not
│   ├── ControlNotAllowed         load or unload while the model repository decides by itself
│   └── NotServing                starting, or draining
├── ModelError                    a model, not a caller, is at fault
│   ├── ConfigError               config.pbtxt is wrong
│   ├── ModelNotInRepository      asked to load what the repository does not hold
│   └── LoadFailed                a version could not be brought up
│       └── ModelLoadFailed       an asked-for load of a model failed
├── SettingsError                 a setting is unknown or has a bad value
└── StartFailed                   a part of the gateway cannot start on this machine, whatever the settings say

The errors carry facts (which model, which version, which limit). Sentences for callers and status codes are made in
`gateway.frontends.status`, and nowhere else.
"""

from __future__ import annotations


class SluiceError(Exception):
    """The root. `str()` of any of them is for logs: the class and its facts."""

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({facts})"


class RequestError(SluiceError):
    """What one caller asked for cannot be done."""


class InvalidRequest(RequestError):
    """The request contradicts itself or the protocol; `reason` says where and how."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class UnknownModel(RequestError):
    """No model has that name."""

    def __init__(self, model: str) -> None:
        self.model = model


class UnknownVersion(UnknownModel):
    """The model has no such version."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(model)
        self.version = version


class NoVersionAvailable(UnknownModel):
    """The model is known, and none of its versions may be served."""


class NoStatistics(RequestError):
    """Statistics were asked of a model or version that serves nothing."""

    def __init__(self, model: str, version: str = "") -> None:
        self.model = model
        self.version = version


class VersionNotReady(RequestError):
    """The version exists and is not ready."""

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version


class Unsupported(RequestError):
    """A part of the protocol that Sluice does not have."""

    def __init__(self, feature: str) -> None:
        self.feature = feature


class ControlNotAllowed(RequestError):
    """A load or unload was asked for while the model repository decides by itself (control mode none or poll)."""


class NotServing(RequestError):
    """The server is starting or draining."""


class ModelError(SluiceError):
    """A model, not a caller, is at fault."""

    def __init__(self, model: str) -> None:
        self.model = model


class ConfigError(ModelError):
    """config.pbtxt is wrong: `field` names where (a dotted path, or empty for the whole file)."""

    def __init__(self, model: str, field: str, reason: str) -> None:
        super().__init__(model)
        self.field = field
        self.reason = reason


class ModelNotInRepository(ModelError):
    """Asked to load what the model repository does not hold."""


class LoadFailed(ModelError):
    """A version could not be brought up."""

    def __init__(self, model: str, version: str, reason: str) -> None:
        super().__init__(model)
        self.version = version
        self.reason = reason


class ModelLoadFailed(LoadFailed):
    """A load that somebody asked for failed; `reason` gathers what its versions said."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, "", reason)


class SettingsError(SluiceError):
    """The setting `key` is unknown or has a bad value; `origin` is where it was given."""

    def __init__(self, key: str, reason: str, origin: str = "") -> None:
        self.key = key
        self.reason = reason
        self.origin = origin


class StartFailed(SluiceError):
    """`part` of the gateway cannot start on this machine, whatever the settings say."""

    def __init__(self, part: str, reason: str) -> None:
        self.part = part
        self.reason = reason
