"""Where a version comes from, found out by looking around the files that are published: the git commit, the revision of
data under DVC, who and from where. Nothing found is no failure: the field stays empty."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from registry.manifest import Lineage

GIT_SECONDS = 10
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_DVC_BYTES = 1 << 20
_DVC_HASHES = ("md5", "etag", "checksum")


def find_lineage(path: Path, *, now: float, data_ref: str = "", run: str = "", source: str = "") -> Lineage:
    """The lineage of a file or folder.

    Args:
        now: seconds since the epoch.
        data_ref: the version of the data; one that names a `.dvc` file stands for the revision written in it. Empty:
            that of `<path>.dvc`, where there is one.
        run: the experiment run.
        source: what is published; empty: the name of the path.
    """
    folder = path if path.is_dir() else path.parent
    commit, is_dirty = git_state(folder)
    return Lineage(
        git_commit=commit,
        git_dirty=is_dirty,
        data_ref=_data_ref(path, data_ref),
        run=run,
        author=user_name(),
        host=socket.gethostname(),
        created_at=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        source=source or path.resolve().name,
    )


def git_state(folder: Path) -> tuple[str, bool]:
    """The commit that is checked out around a folder, and whether tracked files differ from it; ("", False) outside of
    git.

    A repository is a stranger whose configuration may name programs: git is run so that it starts none of them.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD^{commit}").stdout.strip()
    if not _COMMIT.fullmatch(commit):
        return "", False
    # Filters turn what is checked out into what is compared.
    named = _git(folder, "config", "--local", "--includes", "--name-only", "--get-regexp", r"^filter\..*").stdout
    filters = {name.removeprefix("filter.").rpartition(".")[0] for name in named.splitlines()}
    off = [f"filter.{name}.{key}" for name in sorted(filters) for key in ("clean=", "process=", "required=false")]
    compare = ("diff", "--quiet", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD", "--")
    return commit, _git(folder, *compare, settings=off).code == 1


def dvc_revision(path: Path) -> str:
    """What a `.dvc` file pins, as `md5:…`; several outputs are separated by commas. Empty when it pins nothing, or is
    no such file."""
    try:
        if path.stat().st_size > _MAX_DVC_BYTES:
            return ""
        plain: Any = yaml.safe_load(path.read_text("utf-8"))
        outputs = plain["outs"]
        found = [f"{name}:{out[name]}" for out in outputs for name in _DVC_HASHES if isinstance(out.get(name), str)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, RecursionError):
        return ""
    return ",".join(found)


def user_name() -> str:
    """Who runs this process; empty when nobody can say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def _data_ref(path: Path, data_ref: str) -> str:
    if data_ref:
        named = Path(data_ref)
        revision = dvc_revision(named) if named.suffix == ".dvc" and named.is_file() else ""
        return revision or data_ref
    beside = path.with_name(f"{path.name}.dvc")
    return dvc_revision(beside) if beside.is_file() else ""


@dataclass(frozen=True)
class _Answer:
    code: int
    stdout: str = ""


def _git(folder: Path, *arguments: str, settings: Sequence[str] = ()) -> _Answer:
    """What git answers; code 128, its own for "no repository", where there is no git or no answer in time."""
    program = shutil.which("git")
    if program is None:
        return _Answer(128)
    # What the repository's own configuration says of these, the command line overrules.
    harmless = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "diff.external=", *settings)
    environment = {
        "PATH": os.defpath,
        "HOME": str(Path.home()),
        "LC_ALL": "C",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_PAGER": "cat",
    }
    options = [part for setting in harmless for part in ("-c", setting)]
    try:
        done = subprocess.run(
            [program, "-C", str(folder.resolve()), *options, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, RuntimeError, subprocess.TimeoutExpired):
        return _Answer(128)
    return _Answer(done.returncode, done.stdout.decode("utf-8", "replace"))
