"""Everything that the registry raises on purpose.

RegistryError
├── SourceUnavailable      the place that versions come from cannot be read; nothing follows about what it holds
│   ├── CatalogUnavailable the database cannot be reached, or has no room
│   └── StoreUnavailable   the artifact store cannot be reached, or has no room
├── InvalidPolicy          a policy with a field that makes no sense
├── InvalidName            a model or an alias cannot be called that
├── NotFound               no such model, version, alias or object
├── CatalogTooNew          the database was written by a later release
├── AliasConflict          the alias has moved since the caller looked
├── PolicyConflict         the policy was replaced since the caller looked
├── RolloutUnderWay        the model has a rollout already
├── RolloutChanged         the rollout has changed since the caller looked
├── RequestKeyReused       another request had this key
├── NotPermitted           the catalog's rules forbid it
│   ├── AuthorMayNotApprove
│   ├── VersionRejected    an alias cannot point at a version that was rejected
│   └── PolicyRefused      the version does not meet its model's policy
├── ArtifactRefused        bytes that are not taken in
│   ├── InvalidManifest    a manifest with a field that makes no sense
│   ├── InvalidCard        a model card that cannot be read
│   ├── InvalidGoldenSet   a golden set that cannot be read
│   ├── UnsafePath         a path that is absolute, has `..` in it, or odd characters
│   ├── LinkRefused        a symbolic link, a pipe, a device: anything but a file or a folder
│   ├── LimitExceeded      larger, deeper or more than allowed
│   ├── DigestMismatch     other bytes than the digest says
│   ├── UnsafeFormat       a format that runs code when it is read
│   ├── UnsupportedFormat  a format that nothing here reads or converts
│   ├── ConversionFailed   a model that does not convert to ONNX, or converts to one that answers differently
│   ├── InvalidModel       not an ONNX model, or one that contradicts itself
│   ├── ExternalDataRefused  weights outside of the model's folder, missing, or beyond the end of their file
│   ├── CustomOperators    operators of a domain that needs a library of its own
│   └── InvalidSignature   a signature that cannot be read, or made
├── PullFailed             a version could not be brought here; another attempt may succeed
│   └── CacheFull          what is in use leaves no room for it
├── VersionChanged         a version is not what it was when it was first seen
└── StagingFailed          the bytes of one version could not be taken over
    ├── ChangedWhileRead   a file is not what the source announced
    └── NotAsVouchedFor    a file has other bytes than the source vouches for

They carry facts; sentences for users are made by whoever catches them.
"""

from __future__ import annotations

from collections.abc import Sequence


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


class CatalogUnavailable(SourceUnavailable):
    """The database at `place` (without its password) did not do what it was asked."""


class StoreUnavailable(SourceUnavailable):
    """The artifact store at `place` did not do what it was asked."""


class InvalidPolicy(RegistryError):
    """`field` of a policy has a value that makes no sense."""

    def __init__(self, field: str, value: object) -> None:
        self.field = field
        self.value = value


class InvalidName(RegistryError):
    """`name` cannot be the name of a `kind`: model or alias."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


class NotFound(RegistryError):
    """There is no such `kind`: model, version, alias or object."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


class CatalogTooNew(RegistryError):
    """The catalog at `place` has the schema `found`; this release knows `known` and none after it."""

    def __init__(self, place: str, found: int, known: int) -> None:
        self.place = place
        self.found = found
        self.known = known


class PushExpired(RegistryError):
    """A push took so long that its objects were no longer kept for it: some of them may be gone."""


class AliasConflict(RegistryError):
    """The alias is at `generation` and points at `version`; the caller expected generation `expected`."""

    def __init__(self, model: str, alias: str, expected: int, generation: int, version: int | None) -> None:
        self.model = model
        self.alias = alias
        self.expected = expected
        self.generation = generation
        self.version = version


class PolicyConflict(RegistryError):
    """The policy of `model` has the digest `found` (empty: there is no such model); the caller expected another."""

    def __init__(self, model: str, expected: str, found: str) -> None:
        self.model = model
        self.expected = expected
        self.found = found


class RolloutUnderWay(RegistryError):
    """The rollout `id` of the model is under way: one at a time."""

    def __init__(self, model: str, id: str) -> None:
        self.model = model
        self.id = id


class RolloutChanged(RegistryError):
    """The rollout is at `generation`; the caller expected `expected`."""

    def __init__(self, id: str, expected: int, generation: int) -> None:
        self.id = id
        self.expected = expected
        self.generation = generation


class RequestKeyReused(RegistryError):
    """The request with this `key` asked for something else."""

    def __init__(self, key: str) -> None:
        self.key = key


class NotPermitted(RegistryError):
    """The catalog's rules forbid it."""


class AuthorMayNotApprove(NotPermitted):
    """`actor` published the version, and somebody else has to approve it."""

    def __init__(self, model: str, version: int, actor: str) -> None:
        self.model = model
        self.version = version
        self.actor = actor


class VersionRejected(NotPermitted):
    """The version was rejected: no alias may point at it."""

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version


class PolicyRefused(NotPermitted):
    """What is published does not meet the policy of its model, and nothing that comes later could change that."""

    def __init__(self, model: str, reasons: Sequence[str]) -> None:
        self.model = model
        self.reasons = tuple(reasons)


class ArtifactRefused(RegistryError):
    """Bytes that are not taken in."""


class InvalidManifest(ArtifactRefused):
    """`field` of a manifest makes no sense."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason


class InvalidCard(ArtifactRefused):
    """The model card at `path` cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class InvalidGoldenSet(ArtifactRefused):
    """`field` of a golden set makes no sense; empty: the whole."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason


class UnsafePath(ArtifactRefused):
    """`path` is no plain path below the version's folder."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class LinkRefused(ArtifactRefused):
    """`path` is a `kind`, and only files and folders are taken in."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind


class LimitExceeded(ArtifactRefused):
    """`path` has `found` of `what`, and `limit` are allowed. A count that stopped at the limit says limit + 1."""

    def __init__(self, path: str, what: str, found: int, limit: int) -> None:
        self.path = path
        self.what = what
        self.found = found
        self.limit = limit


class DigestMismatch(ArtifactRefused):
    """The bytes of `subject` have the SHA-256 `found`, or the wrong length, where `expected` was announced."""

    def __init__(self, subject: str, expected: str, found: str) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found


class UnsafeFormat(ArtifactRefused):
    """`path` is in a format that runs code when it is read; `advice` says what to publish instead."""

    def __init__(self, path: str, format: str, advice: str) -> None:
        self.path = path
        self.format = format
        self.advice = advice


class UnsupportedFormat(ArtifactRefused):
    """`path` is nothing that can be served or converted; `advice` says what can."""

    def __init__(self, path: str, format: str, advice: str) -> None:
        self.path = path
        self.format = format
        self.advice = advice


class ConversionFailed(ArtifactRefused):
    """The model at `path`, of a `format` that is converted, cannot be; `advice` says what to do instead."""

    def __init__(self, path: str, format: str, reason: str, advice: str) -> None:
        self.path = path
        self.format = format
        self.reason = reason
        self.advice = advice


class InvalidModel(ArtifactRefused):
    """`path` is not an ONNX model, or one that contradicts itself."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class ExternalDataRefused(ArtifactRefused):
    """The model at `path` says that weights lie at `location`, and they do not, or must not."""

    def __init__(self, path: str, location: str, reason: str) -> None:
        self.path = path
        self.location = location
        self.reason = reason


class CustomOperators(ArtifactRefused):
    """The model at `path` uses operators of `domains`, which only a library of their own can run."""

    def __init__(self, path: str, domains: Sequence[str]) -> None:
        self.path = path
        self.domains = tuple(domains)


class InvalidSignature(ArtifactRefused):
    """A signature or its key cannot be used."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class PullFailed(RegistryError):
    """`path` of a version ("" for the version itself) could not be brought here."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class CacheFull(PullFailed):
    """`needed` more bytes do not fit into `limit`, with everything gone that is not in use."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__("", f"needs {needed} bytes more; what is in use leaves no room for them in {limit}")
        self.needed = needed
        self.limit = limit


class VersionChanged(RegistryError):
    """The source now says that a version is `found`, where it was `pinned` when it was first seen."""

    def __init__(self, model: str, version: int, pinned: str, found: str) -> None:
        self.model = model
        self.version = version
        self.pinned = pinned
        self.found = found


class StagingFailed(RegistryError):
    """`path` could not be taken over."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason


class ChangedWhileRead(StagingFailed):
    """`path` is not the file that the source announced: it was replaced or written to since."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "changed while it was read")


class NotAsVouchedFor(StagingFailed):
    """The bytes of `path` do not have the digest that the source vouches for: nothing may read them."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "does not have the digest that its source vouches for")
