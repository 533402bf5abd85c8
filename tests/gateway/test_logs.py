"""What a log line looks like to a machine and to a person."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = handlers, level, our_level
    logging.captureWarnings(False)


def one_line(action: Any = None, *, level: int = logging.INFO, message: str = "version ready", **labels: Any) -> str:
    stream = io.StringIO()
    logs.configure("json", "debug", stream)
    logging.getLogger("sluice.models").log(level, message, extra={**labels, **({"action": action} if action else {})})
    return stream.getvalue()


def test_a_json_line_begins_with_the_fields_of_ecs_in_their_order() -> None:
    line = json.loads(one_line("version-ready", model="tabular", version="2"))
    assert list(line)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert line["@timestamp"].endswith("Z")
    assert (line["log.level"], line["message"], line["event.action"]) == ("info", "version ready", "version-ready")
    assert line["labels"] == {"model": "tabular", "version": "2"}


def test_labels_are_flat_and_their_keys_have_no_dots() -> None:
    line = json.loads(one_line(**{"a.b": 1, "parts": [1, 2], "is_new": True, "nan": float("nan")}))
    assert line["labels"] == {"a_b": 1, "parts": "[1, 2]", "is_new": True, "nan": "nan"}


def test_an_exception_becomes_error_fields_on_the_same_line() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise ValueError("it broke")
    except ValueError:
        logging.getLogger("sluice.x").exception("load failed")
    text = stream.getvalue()
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["error.type"], line["error.message"]) == ("ValueError", "it broke")
    assert "Traceback" in line["error.stack_trace"]


def test_a_person_reads_time_level_message_and_labels() -> None:
    stream = io.StringIO()
    logs.configure("text", "info", stream)
    extra = {"action": "version-ready", "model": "tabular", "seconds": 0.12345, "reason": "two words"}
    logging.getLogger("sluice.models").info("version ready", extra=extra)
    text = stream.getvalue()
    assert text.endswith('INFO  version ready  model=tabular seconds=0.123 reason="two words"\n')
    assert "\x1b" not in text


def test_levels_are_words_of_one_width() -> None:
    stream = io.StringIO()
    log = logs.configure("text", "debug", stream)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(level, "said")
    words = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert words == ["DEBUG said", "INFO  said", "WARN  said", "ERROR said"]


def test_a_terminal_gets_colour_and_everything_else_gets_json() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        logs.configure("auto", "info", stream)
        logging.getLogger("sluice").info("ready")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["message"] == "ready"


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_value_can_forge_a_second_line_or_drive_the_terminal(format: logs.Format) -> None:
    stream = io.StringIO()
    logs.configure(format, "info", stream)
    logging.getLogger("sluice").info("load of %s", "x\nERROR forged\x1b[2J", extra={"model": "y\r\nINFO forged\x1b[0m"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    logging.getLogger("sluice.models").info("quiet")
    logging.getLogger("sluice.models").warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_warnings_of_libraries_arrive_as_log_lines() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("json", "info", stream)
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    assert "deprecated" in json.loads(stream.getvalue())["message"]


def test_configuring_twice_writes_each_line_once() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.configure("json", "info", stream)
    logging.getLogger("sluice").info("once")
    assert stream.getvalue().count("\n") == 1
