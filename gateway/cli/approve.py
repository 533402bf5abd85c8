"""`sluice approve` and `sluice reject`: a named person decides about a version, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, Reason, TokenFile, output, print_json
from gateway.cli.registry import Model, complete_version, open_registry, resolve

Decision = Literal["approved", "rejected"]
Version = Annotated[str, typer.Argument(help="A version, or an alias.", autocompletion=complete_version)]


def _command(decision: Decision, help: str) -> Callable[..., None]:
    def decide(
        name: Model, version: Version, reason: Reason = "", data_dir: DataDir = None, admin_url: AdminUrl = None,
        token_file: TokenFile = None, config: Config = None, as_json: AsJson = False,
    ) -> None:  # fmt: skip
        with open_registry(data_dir, admin_url, token_file, config) as registry:
            document = registry.decide(name, resolve(registry, name, version), decision, _given(reason))
        if as_json:
            print_json(document)
        else:
            style = "green" if decision == "approved" else "red"
            output().print(f"{document['model']} version {document['version']} is [{style}]{decision}[/{style}].")

    decide.__doc__ = help
    return decide


def _given(reason: str) -> str:
    if not reason.strip():
        raise CommandFailed("a decision needs its --reason", exit_code=ExitCode.USAGE)
    return reason.strip()


approve = _command("approved", "Approve a version. Where the policy asks for it, by someone other than its author.")
reject = _command("rejected", "Reject a version.")
