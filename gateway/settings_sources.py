"""Builds `Settings` from a YAML file, the environment and flags, each over the one before.

Keys are dotted (`batching.max_queue_rows`). A source is a mapping from such keys to values and the name of where each
came from, so that an error can say which line of which source to change.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError
from gateway.settings import GIB, KIB, METADATA, MIB, Leaf, Settings

PREFIX = "SLUICE_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
"""Names the YAML file; not a setting itself."""
ADMIN_URL_VARIABLE, TOKEN_VARIABLE = PREFIX + "ADMIN_URL", PREFIX + "TOKEN"
"""Which gateway a subcommand asks, and as whom; no settings of a gateway."""
_NO_SETTINGS = (CONFIG_VARIABLE, ADMIN_URL_VARIABLE, TOKEN_VARIABLE)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "kib": KIB,
    "m": 10**6,
    "mb": 10**6,
    "mib": MIB,
    "g": 10**9,
    "gb": 10**9,
    "gib": GIB,
}
_TIME_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS: dict[str, Mapping[str, float]] = {"bytes": _SIZE_UNITS, "seconds": _TIME_UNITS}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Given:
    """A value as its source wrote it, and where."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Entry:
    """One leaf of the tree, as the table and the readers see it."""

    key: str
    type: Any
    default: Any
    leaf: Leaf

    @property
    def variable(self) -> str:
        return PREFIX + self.key.replace(".", "__").upper()

    def convert(self, given: Given) -> Any:
        try:
            value = _convert(given.value, self.type, self.leaf)
        except (ValueError, TypeError, OverflowError) as error:
            raise SettingsError(self.key, str(error), given.origin) from None
        return value


def entries(section: type[Any] = Settings, path: str = "") -> Iterator[Entry]:
    """Every leaf, in the order of the declarations."""
    hints = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from entries(typing.cast(type[Any], hints[item.name]), f"{path}{item.name}.")
        else:
            yield Entry(path + item.name, hints[item.name], item.default, item.metadata[METADATA])


def load(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """The settings, checked. `flags` maps dotted keys to values, those that are None were not given. SettingsError
    names the first key that is unknown or whose value is out of its limits."""
    given: dict[str, Given] = {}
    if file is not None:
        given.update(from_file(file))
    given.update(from_environment(environ or {}))
    given.update({key: Given(value, "a flag") for key, value in (flags or {}).items() if value is not None})
    return build(given)


def build(given: Mapping[str, Given]) -> Settings:
    known = {entry.key: entry for entry in entries()}
    for key, value in given.items():
        if key not in known:
            raise SettingsError(key, _unknown(key, known), value.origin)
    values = {key: known[key].convert(value) for key, value in given.items()}
    settings: Settings = _assemble(Settings, "", values)
    repository = settings.model_repository
    settings = dataclasses.replace(
        settings,
        model_repository=None if repository is None else repository.expanduser(),
        data_dir=settings.data_dir.expanduser(),
    )
    _check_together(settings)
    return settings


def from_file(file: Path) -> dict[str, Given]:
    """The leaves of a YAML file; SettingsError when it cannot be read or is not a mapping of sections."""
    import yaml  # loaded only by who has such a file

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(file), error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise SettingsError(str(file), "is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SettingsError(str(file), f"{where}{getattr(error, 'problem', None) or 'is not YAML'}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(str(file), f"must be a mapping of settings, not a {_kind(tree)}")
    sections = {entry.key.rpartition(".")[0] for entry in entries()} - {""}
    found: dict[str, Given] = {}
    for key, value in tree.items():
        if key in sections:
            if not isinstance(value, dict | None):
                raise SettingsError(str(key), f"is a section: give it keys, not a {_kind(value)}", str(file))
            found.update({f"{key}.{leaf}": Given(inner, str(file)) for leaf, inner in (value or {}).items()})
        else:
            found[str(key)] = Given(value, str(file))
    return found


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """`SLUICE_HTTP_PORT` is `http_port`, `SLUICE_HTTP__MAX_HEADERS` is `http.max_headers`.

    Kubernetes announces a Service called sluice by variables with our prefix; those are left alone.
    """
    return {
        name.removeprefix(PREFIX).lower().replace("__", "."): Given(value, f"the environment variable {name}")
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in _NO_SETTINGS and not _is_service_link(name, value)
    }


def _is_service_link(name: str, value: str) -> bool:
    return (
        value.startswith(("tcp://", "udp://"))
        or re.fullmatch(r"\w+_SERVICE_(HOST|PORT(_\w+)?)", name) is not None
        or re.fullmatch(r"\w+_PORT_\d+_(TCP|UDP)(_\w+)?", name) is not None
    )


def _assemble(section: type[Any], path: str, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(section)
    chosen: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        key = path + item.name
        if dataclasses.is_dataclass(hints[item.name]):
            chosen[item.name] = _assemble(typing.cast(type[Any], hints[item.name]), f"{key}.", values)
        elif key in values:
            chosen[item.name] = values[key]
    return section(**chosen)


def _check_together(settings: Settings) -> None:
    """What no single key can tell."""
    tls = settings.tls
    if (tls.certificate_file is None) != (tls.private_key_file is None):
        missing = "tls.private_key_file" if tls.private_key_file is None else "tls.certificate_file"
        raise SettingsError(missing, "a certificate and its private key are given together")
    if tls.require_client_certificate and tls.client_ca_file is None:
        raise SettingsError("tls.client_ca_file", "is needed by tls.require_client_certificate")
    if tls.client_ca_file is not None and not tls.is_enabled:
        raise SettingsError("tls.certificate_file", "is needed by tls.client_ca_file")
    for key, path in (
        ("tls.certificate_file", tls.certificate_file),
        ("tls.private_key_file", tls.private_key_file),
        ("tls.client_ca_file", tls.client_ca_file),
        ("admin.token_file", settings.admin.token_file),
        ("registry.database_password_file", settings.registry.database_password_file),
    ):
        if path is not None and not path.is_file():
            raise SettingsError(key, f"there is no file {path}")
    ports = [settings.http_port, settings.grpc_port, settings.admin_port]
    for key, number in zip(("grpc_port", "admin_port"), ports[1:], strict=True):
        if number and ports.count(number) > 1:
            raise SettingsError(key, f"{number} is given to two ports")
    if settings.workers.restart_backoff_max_seconds < settings.workers.restart_backoff_initial_seconds:
        raise SettingsError("workers.restart_backoff_max_seconds", "must not be below restart_backoff_initial_seconds")
    if settings.drain.delay_seconds and settings.drain.delay_seconds >= settings.drain.timeout_seconds:
        raise SettingsError("drain.timeout_seconds", "must be above delay_seconds, or no request in flight may finish")
    if settings.models.load_on_start and settings.models.control_mode != "explicit":
        raise SettingsError("models.load_on_start", "has a meaning only when models.control_mode is explicit")


def _unknown(key: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not close:  # the right field in the wrong section, or in none
        tail = key.rpartition(".")[2]
        tails = {name.rpartition(".")[2]: name for name in names}
        close = [tails[match] for match in difflib.get_close_matches(tail, list(tails), n=1, cutoff=0.8)]
    return "there is no such setting" + (f"; did you mean {close[0]}?" if close else "")


def _convert(value: Any, wanted: Any, leaf: Leaf) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):  # only ever `X | None`
        inner = next(kind for kind in typing.get_args(wanted) if kind is not type(None))
        return None if value is None or value == "" else _convert(value, inner, leaf)
    if origin is typing.Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return value
    if origin is tuple:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"must be a list of words, not {value!r}")
        return tuple(item for item in items if item)
    if wanted is bool:
        return _boolean(value)
    if wanted in (int, float):
        return _number(value, wanted, leaf)
    if not isinstance(value, str | Path) or str(value) == "":
        raise ValueError(f"must be text, not {_kind(value) if value != '' else 'empty'}")
    return Path(value) if wanted is Path else str(value)


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if isinstance(value, bool | str) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    raise ValueError(f"must be true or false, not {value!r}")


def _number(value: Any, wanted: type[int] | type[float], leaf: Leaf) -> int | float:
    kind = "whole number" if wanted is int else "number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a {kind}, not a {_kind(value)}")
    number: int | float
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([-+]?[\d_]*\.?\d+(?:[eE][-+]?\d+)?)\s*([a-zA-Z]*)\s*", value)
        units = _UNITS.get(leaf.unit, {"": 1.0})
        if match is None or match[2].lower() not in units:
            names = ", ".join(unit for unit in units if unit)
            allowed = f" (units: {names})" if names else ""
            raise ValueError(f"must be a {kind}{allowed}, not {value!r}")
        scale = units[match[2].lower()]
        digits = match[1].replace("_", "")
        number = int(digits) * scale if re.fullmatch(r"[-+]?\d+", digits) else float(digits) * scale
    else:
        number = value
    if not math.isfinite(number) or (wanted is int and number != int(number)):
        raise ValueError(f"must be a {kind}, not {value!r}")
    if (leaf.low is not None and number < leaf.low) or (leaf.high is not None and number > leaf.high):
        raise ValueError(f"must be from {quantity(leaf.low, leaf)} to {quantity(leaf.high, leaf)}, not {value}")
    return wanted(number)


def quantity(value: float | None, leaf: Leaf) -> str:
    """A number as people write it: 64 MiB, 0.1 s."""
    if value is None:
        return "any number"
    if leaf.unit == "bytes":
        for name, scale in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
            if value >= scale and value % scale == 0:
                return f"{int(value // scale)} {name}"
        return f"{int(value)} B"
    text = f"{value:g}" if abs(value) < 1e6 and value != int(value) else f"{int(value)}"
    return f"{text} s" if leaf.unit == "seconds" else text


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", type(None): "empty value"}
    return names.get(type(value), type(value).__name__)
