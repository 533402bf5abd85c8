"""A process for a stranger's bytes: whatever it does, nothing outside changes and the caller gets a named error."""

from __future__ import annotations

from pathlib import Path

import pytest
from live_gateway import wait_until

from gateway.confined import Bounds, ConfinedFailed, run
from registry.errors import LimitExceeded

TASKS = "tests.confined_tasks"
BOUNDS = Bounds(seconds=30, address_space_bytes=4 << 30)


def test_it_works_in_its_folder_and_knows_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_TOKEN", "secret")
    (tmp_path / "model.onnx").write_bytes(b"x")
    answer = run(TASKS, tmp_path, {"do": "echo"}, BOUNDS)
    assert "model.onnx" in answer["files"]
    assert "SLUICE_TOKEN" not in answer["environment"]


def test_it_changes_nothing_outside_of_its_folder_and_reaches_no_network(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (outside / "old").write_text("as it was")
    attempts = run(TASKS, folder, {"do": "try", "outside": str(outside)}, BOUNDS)["attempts"]
    assert len(attempts) == 8
    assert {name: outcome for name, outcome in attempts.items() if outcome != "PermissionError"} in (
        {},
        {"rename": "OSError"},  # across two trees it is "another device"
    )
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("old", "as it was")]


@pytest.mark.parametrize(
    ("request_", "bounds", "reason"),
    [
        ({"do": "crash"}, BOUNDS, "the process was ended by SIGSEGV"),
        ({"do": "hang"}, Bounds(1.0, 4 << 30), "took longer than 1 s"),
        ({"do": "eat", "bytes": 8 << 30}, BOUNDS, "the process ended with code 1: MemoryError"),
        ({"do": "raise"}, BOUNDS, "the process ended with code 1: ValueError: of a library"),
        ({"do": "answer", "outside": "/nowhere"}, BOUNDS, "IsADirectoryError"),
    ],
)
def test_however_it_ends_the_caller_is_told(
    tmp_path: Path, request_: dict[str, object], bounds: Bounds, reason: str
) -> None:
    with pytest.raises(ConfinedFailed) as failed:
        run(TASKS, tmp_path, request_, bounds)
    assert reason in failed.value.reason


@pytest.mark.parametrize("code", [0, 1])
def test_what_it_leaves_in_place_of_its_answer_is_neither_followed_nor_waited_for(tmp_path: Path, code: int) -> None:
    folder, secret = tmp_path / "in", tmp_path / "secret"
    folder.mkdir()
    secret.write_text('{"done": {"word": "ours"}}')
    for number, left in enumerate((str(secret), "pipe", "folder")):
        (folder / str(number)).mkdir()
        with pytest.raises(ConfinedFailed) as failed:
            run(TASKS, folder / str(number), {"do": "end", "as": left, "code": code}, BOUNDS)
        assert "ours" not in failed.value.reason


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    pid = run(TASKS, tmp_path, {"do": "fork"}, BOUNDS)["pid"]
    wait_until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_refusal_comes_back_with_its_facts(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded) as refused:
        run(TASKS, tmp_path, {"do": "refuse"}, BOUNDS)
    assert vars(refused.value) == {"path": "model.onnx", "what": "bytes", "found": 3, "limit": 2}
