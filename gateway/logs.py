"""Log lines for changes of state: ECS JSON for machines, aligned text for people. Requests are for metrics, not logs.

Everyone logs by the standard library: `logging.getLogger("sluice.models").info("version ready", extra={"action":
"version-ready", "model": "tabular", "version": "2"})`. What `extra` holds besides `action` becomes labels.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

ECS_VERSION = "8.17.0"
ROOT = "sluice"
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "action"}
_UNSAFE_KEY = str.maketrans({".": "_", "*": "_", "\\": "_"})
_LEVELS = {logging.WARNING: "WARN"}
_COLOURS = {logging.DEBUG: "\x1b[2m", logging.INFO: "\x1b[32m", logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"

Format = Literal["auto", "json", "text"]


def configure(format: Format = "auto", level: str = "info", stream: TextIO | None = None) -> logging.Logger:
    """Sends what is logged below `sluice`, and the warnings of libraries, to `stream` (standard error). A second call
    replaces the first."""
    target = sys.stderr if stream is None else stream
    is_terminal = target.isatty()
    is_text = format == "text" or (format == "auto" and is_terminal)
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(colour=is_terminal) if is_text else EcsFormatter())
    ours = logging.getLogger(ROOT)
    ours.setLevel(level.upper())
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    return ours


class EcsFormatter(logging.Formatter):
    """One JSON object a line, `@timestamp`, `log.level`, `message` and `ecs.version` first, as ECS logging asks."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "@timestamp": _utc(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": ECS_VERSION,
            "service.name": ROOT,
            "log.logger": record.name,
        }
        if action := getattr(record, "action", None):
            fields["event.action"] = action
        if record.exc_info and record.exc_info[0] is not None:
            fields["error.type"] = record.exc_info[0].__name__
            fields["error.message"] = str(record.exc_info[1])
            fields["error.stack_trace"] = "".join(traceback.format_exception(*record.exc_info))
        if labels := {key.translate(_UNSAFE_KEY): _scalar(value) for key, value in _labels(record)}:
            fields["labels"] = labels
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """`12:34:56.789 INFO  version ready  model=tabular version=2`, always one line but for a traceback."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        out = io.StringIO()
        time = _utc(record).astimezone().strftime("%H:%M:%S.") + f"{int(record.msecs):03d}"
        out.write(self._painted(_DIM, time) + " ")
        level = _LEVELS.get(record.levelno, record.levelname).ljust(5)
        out.write(self._painted(_COLOURS.get(record.levelno, _COLOURS[logging.ERROR]), level) + " ")
        out.write(self._painted(_BOLD, _one_line(record.getMessage())))
        labels = "".join(f" {self._painted(_DIM, key + '=')}{_word(value)}" for key, value in _labels(record))
        if labels:
            out.write(" " + labels)
        if record.exc_info:
            out.write("\n" + self.formatException(record.exc_info))
        return out.getvalue()

    def _painted(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self._colour else text


def _labels(record: logging.LogRecord) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in vars(record).items() if key not in _OWN_FIELDS)


def _utc(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _scalar(value: Any) -> str | int | float | bool | None:
    """Labels are flat: whatever has parts is shown as text. JSON has no NaN."""
    if isinstance(value, float) and not (-1e308 < value < 1e308):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _one_line(text: str) -> str:
    """Control characters escaped, so that no value can forge a line or drive the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _word(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and not set(' "=') & set(text) else json.dumps(text)
