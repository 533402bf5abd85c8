"""The inputs that fuzzing starts from, and those that once broke something, through the code that is really served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import config, http1, http2_connection, wire

CORPUS = Path(__file__).parent / "corpus"
CHOICES = (0, 1, 3, 4, 8, 9, 16, 17, 32, 65, 128, 255)


def corpus(*targets: str) -> pytest.MarkDecorator:
    """Every input of these targets, by name."""
    paths = [path for target in targets for path in sorted((CORPUS / target).iterdir())]
    assert paths
    return pytest.mark.parametrize("path", paths, ids=[f"{path.parent.name}-{path.name}" for path in paths])


def try_all(one_input: Callable[[bytes], None], data: bytes, skipped: int) -> None:
    """The input, and what the client sends in it under other choices of the server's side."""
    one_input(data)
    for choice in CHOICES:
        one_input(bytes([choice, 7][:skipped]) + data[skipped:])


@corpus("proto")
def test_a_protobuf_message_is_refused_or_read_as_the_reference_reads_it(path: Path) -> None:
    wire.proto(path.read_bytes())


@corpus("json")
def test_a_json_body_is_refused_or_read_as_the_reference_reads_it(path: Path) -> None:
    wire.json(path.read_bytes())


@corpus("http1")
def test_an_http1_connection_answers_the_same_however_its_bytes_arrive(path: Path) -> None:
    try_all(http1.one_input, path.read_bytes(), skipped=2)


@corpus("http1_framing")
def test_framings_arrive_whole_or_are_refused_on_a_connection(path: Path) -> None:
    try_all(http1.one_input, b"\0\0" + path.read_bytes(), skipped=2)


@corpus("http2")
def test_an_http2_connection_leaves_nothing_behind(path: Path) -> None:
    try_all(http2_connection.one_input, path.read_bytes(), skipped=1)


@corpus("config")
def test_a_model_configuration_is_complete_or_refused(path: Path) -> None:
    try_all(config.one_input, path.read_bytes(), skipped=1)
