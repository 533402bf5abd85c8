"""The documentation as something that runs: the fenced blocks of a page in order, in a shell of a scratch folder.

- `sh` runs in bash and has to succeed, unless the `text` block that follows shows an error. What is exported stays. A
  line that starts with `sluice serve` starts a gateway and waits until it is ready; it runs until the page's end.
- `text` shows lines that the block before it has to have printed, in this order. Times, digests and the reader's name
  are compared as such; numbers to two digits.
- `python` runs in an interpreter that has what the page needs; `yaml` whose first line is `# NAME` becomes that file.
- A comment `<!-- not run: WHY -->` right before a block leaves it out, for a reason.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from live_gateway import ROOT, START_SECONDS, free_ports, wait_until

BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```\n", re.DOTALL)
COMMAND_SECONDS, FOLLOWED_SECONDS = 60, 10
PORTS = ("8000", "8001", "8002", "9000", "9001", "9002")
LOOKS = ("sluice infer", "sluice models", "curl -s ")
"""What may be asked again until the gateway has followed."""


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where it starts."""

    kind: str
    text: str
    line: int
    why_not: str = ""
    shown: str = ""
    """The `text` block that follows."""


def blocks(markdown: str) -> list[Block]:
    found: list[Block] = []
    for match in BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start("kind")) + 1
        if match["kind"] == "text" and found:
            found[-1] = Block(found[-1].kind, found[-1].text, found[-1].line, found[-1].why_not, match["text"])
        else:
            found.append(Block(match["kind"], match["text"], line, match["why"] or ""))
    return found


def section(markdown: str, title: str) -> str:
    """From a heading of the second level to the next."""
    start = markdown.index(f"\n## {title}\n")
    end = markdown.find("\n## ", start + 1)
    return markdown[start : None if end < 0 else end]


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, folder: Path, places: Mapping[str, str], environment: Mapping[str, str], python: str) -> None:
        self.folder, self._interpreter = folder, python
        ports = [str(port) for port in free_ports(len(PORTS))]
        self._places = {**places, **dict(zip(PORTS, ports, strict=True))}
        self._gateways: list[subprocess.Popen[bytes]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        self._environment = {
            **kept,
            **environment,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLUICE_HTTP_PORT": ports[0],
            "SLUICE_GRPC_PORT": ports[1],
            "SLUICE_ADMIN_PORT": ports[2],
        }
        self._state = folder / ".exported"
        self._state.touch()

    def read(self, page: list[Block]) -> None:
        for block in page:
            if not block.why_not:
                getattr(self, f"_{block.kind}")(block)

    def _yaml(self, block: Block) -> None:
        name = re.match(r"# (\S+)\n", block.text)
        assert name is not None, f"line {block.line}: which file is this?"
        (self.folder / name[1]).write_text(self._here(block.text))

    def _python(self, block: Block) -> None:
        done = subprocess.run(
            [self._interpreter, "-c", self._here(block.text)], cwd=self.folder, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"line {block.line}:\n{done.stdout}"

    def _sh(self, block: Block) -> None:
        commands: list[str] = []
        for command in re.split(r"(?<!\\)\n", self._here(block.text)):
            if re.match(r"(\w+=\S+ )*sluice serve\b", command):
                self._run_shell(commands, block)
                self._serve(command)
                commands = []
            elif command.strip():
                commands.append(command)
        self._run_shell(commands, block)

    def _run_shell(self, commands: list[str], block: Block) -> None:
        if not commands:
            return
        wanted = [plain(self._here(line)) for line in block.shown.splitlines() if line.strip()]
        script = "\n".join([f". {self._state}", *commands, f"export -p > {self._state}"])
        outcome = ""

        def is_as_shown() -> bool:
            nonlocal outcome
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self._environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS,
            )  # fmt: skip
            outcome = f"line {block.line}: exit code {done.returncode}\n{done.stdout}"
            if (done.returncode != 0) != any(line.startswith("error: ") for line in wanted):
                return False
            printed = iter([plain(line) for line in done.stdout.splitlines()])
            return all(line in printed for line in wanted)

        if all(command.startswith(LOOKS) for command in commands):
            with contextlib.suppress(AssertionError):
                wait_until(is_as_shown, FOLLOWED_SECONDS)
                return
        elif is_as_shown():
            return
        raise AssertionError(f"{outcome}\n--- shown\n" + "\n".join(wanted))

    def _serve(self, command: str) -> None:
        log = self.folder / f"gateway-{len(self._gateways)}.log"
        port = re.search(r"--http-port (\d+)", command)
        url = f"http://127.0.0.1:{port[1] if port else self._environment['SLUICE_HTTP_PORT']}/v2/health/ready"
        script = re.sub(r"^((?:\w+=\S+ )*)sluice", r"\1exec sluice", command)
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f". {self._state}\n{script}"], cwd=self.folder, env=self._environment,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._gateways.append(process)
        wait_until(lambda: process.poll() is not None or answers(url), START_SECONDS, log.read_text)
        assert process.poll() is None, log.read_text()

    def _here(self, text: str) -> str:
        """With this machine's places instead of the page's."""
        for there, here in self._places.items():
            text = re.sub(rf"(?<!\d){re.escape(there)}(?!\d)", lambda _, here=here: here, text)
        return text

    def leave(self) -> None:
        for process in self._gateways:
            process.terminate()
        for process in self._gateways:
            process.wait(30)


@contextlib.contextmanager
def reading(
    folder: Path,
    places: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Iterator[Reader]:
    reader = Reader(folder, places or {}, environment or {}, python)
    try:
        yield reader
    finally:
        reader.leave()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def plain(line: str) -> str:
    """A printed line without what differs from run to run."""
    line = re.sub(r"\b[0-9a-f]{12,}\b|(?<=token )[0-9a-f]{8}\b", "DIGEST", line)
    line = re.sub(r"\b\d+(\.\d+)? (µs|ms|s|min|h|d)\b", "TIME", line)
    line = re.sub(rf"\b{re.escape(getpass.getuser())}\b", "ann", line)
    line = re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.2g}", line)
    return " ".join(line.split())


def page(name: str) -> list[Block]:
    return blocks((ROOT / "docs" / name).read_text())
