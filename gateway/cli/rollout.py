"""`sluice rollout`: move traffic to a version under guard, watch it, and step in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape

from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AdminUrl, AsJson, Config, DataDir, Reason, TokenFile, messages, output, print_json
from gateway.cli.registry import Model, complete_version, told
from gateway.cli.rollout_access import Doc, Rollouts, open_rollouts
from gateway.cli.rollout_report import Outcome, decided, outcome_of, to_junit
from gateway.cli.rollout_view import style_of, to_history, to_list, to_view
from gateway.cli.token import duration

rollout = typer.Typer(
    help="Move traffic to a version under statistical guard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
POLL_SECONDS = 0.5
LATE_LOOKS = 20
"""After so many, what waited for the end of another rollout has not begun, and will not."""

Plan = Annotated[Path | None, typer.Option(help="YAML or JSON with the steps and guards; there is a default.")]
Id = Annotated[str | None, typer.Option("--id", help="Another rollout of the model than the newest.")]
JUnit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML there, with --wait.")]
Timeout = Annotated[str | None, typer.Option(help="With --wait: inconclusive after so long, such as 30m \\[never].")]


@rollout.command()
def start(
    name: Model,
    to: Annotated[int, typer.Option(help="The version that is to take over.", autocompletion=complete_version)],
    plan: Plan = None,
    alias: Annotated[str | None, typer.Option(help="Moved when it is promoted \\[the one that serves].")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is decided: exit 0 promoted, 2 rolled back, "
                                       "3 inconclusive.")] = False,
    timeout: Timeout = None,
    junit: JUnit = None,
    key: Annotated[str, typer.Option(help="The same key again begins no second rollout.")] = "",
    reason: Reason = "",
    data_dir: DataDir = None,
    admin_url: AdminUrl = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Begin a rollout."""
    document = None if plan is None else read_plan_file(plan)
    seconds = None if timeout is None else duration(timeout)
    if junit is not None and not wait:
        raise CommandFailed("--junit needs --wait", exit_code=ExitCode.USAGE)
    with open_rollouts(data_dir, admin_url, token_file, config) as rollouts:
        begun = rollouts.start(name, to, alias=alias, plan=document, reason=reason, key=key)
        if wait:
            raise typer.Exit(_wait(rollouts, begun, to, seconds, junit, as_json))
    if as_json:
        print_json(begun)
    elif begun["to"] != to:
        output().print(f"Version {to} of {name} waits for the end of rollout {begun['id']}.")
    else:
        text = f"Rollout {begun['id']} of {name}: version {begun['from']} → {begun['to']}."
        output().print(f"{text} `sluice rollout watch {escape(name)}` follows it.")


@rollout.command()
def status(
    name: Model, id: Id = None, data_dir: DataDir = None, admin_url: AdminUrl = None, token_file: TokenFile = None,
    config: Config = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show the newest rollout of a model: where it is, its evidence, both arms."""
    with open_rollouts(data_dir, admin_url, token_file, config) as rollouts:
        document = find(rollouts, name, id)
    if as_json:
        print_json(document)
    else:
        output().print(to_view(document))


@rollout.command()
def watch(
    name: Model, id: Id = None, data_dir: DataDir = None, admin_url: AdminUrl = None, token_file: TokenFile = None,
    config: Config = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Follow a rollout until it is over, and as JSON, show what it came to. The exit code says how it came out."""
    with open_rollouts(data_dir, admin_url, token_file, config) as rollouts:
        document = find(rollouts, name, id)
        if as_json:
            last = follow(rollouts, document, None, lambda document: None)
            print_json(last)
        else:
            with Live(to_view(document), console=output(), auto_refresh=False) as live:
                last = follow(rollouts, document, None, lambda document: live.update(to_view(document), refresh=True))
    raise typer.Exit(decided(last))


def _command(verb: str, help: str) -> None:
    def act(
        name: Model, id: Id = None, reason: Reason = "", data_dir: DataDir = None, admin_url: AdminUrl = None,
        token_file: TokenFile = None, config: Config = None, as_json: AsJson = False,
    ) -> None:  # fmt: skip
        with open_rollouts(data_dir, admin_url, token_file, config) as rollouts:
            before = find(rollouts, name, id)
            # An abort always wins; anything else is for who knows what it changes.
            expected = None if verb == "abort" else before["generation"]
            document = rollouts.command(before["id"], verb, expected, reason)
        if as_json:
            print_json(document)
        else:
            style = style_of(document)
            output().print(f"Rollout {document['id']} of {name} is [{style}]{document['state']}[/{style}].")

    rollout.command(verb, help=help)(act)


_command("pause", "Stay at the present weight until resumed.")
_command("resume", "Go on after a pause, or after an inconclusive step.")
_command("promote", "Give the version all traffic now.")
_command("abort", "Give all traffic back to the stable version now.")


@rollout.command()
def history(
    name: Model, id: Id = None, data_dir: DataDir = None, admin_url: AdminUrl = None, token_file: TokenFile = None,
    config: Config = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show the rollouts of a model; with --id, every decision of one."""
    with open_rollouts(data_dir, admin_url, token_file, config) as rollouts:
        if id is None:
            found = rollouts.of_model(name)
            document, view = {"rollouts": found}, to_list(found)
        else:
            entries = rollouts.history(id)
            document, view = {"history": entries}, to_history(entries)
    if as_json:
        print_json(document)
    else:
        output().print(view)


@rollout.command()
def plan(
    file: Annotated[Path | None, typer.Argument(help="The plan. Without one, the default is shown.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Say only whether it makes sense.")] = False,
) -> None:
    """Show a plan with everything that it leaves out filled in, or check it."""
    from gateway.rollouts.errors import InvalidPlan
    from gateway.rollouts.plan_reader import read_plan
    from gateway.rollouts.plan_writer import to_plain

    try:
        read = read_plan({} if file is None else read_plan_file(file))
    except InvalidPlan as error:
        raise CommandFailed(f"{file}: {error.field}: {error.reason}", exit_code=ExitCode.USAGE) from None
    if check:
        output().print(f"{file or 'The default plan'} makes sense: {len(read.steps)} steps.")
    else:
        print_json(to_plain(read))


def find(rollouts: Rollouts, model: str, id: str | None) -> Doc:
    """The rollout with that id, or the newest of the model."""
    if id is not None:
        return rollouts.get(id)
    newest = rollouts.of_model(model, limit=1)
    if not newest:
        raise CommandFailed(f"{model} has had no rollout", exit_code=ExitCode.NOT_FOUND)
    return newest[0]


def follow(rollouts: Rollouts, document: Doc, until: float | None, show: Callable[[Doc], None]) -> Doc:
    """Asks for the rollout again and again, until it is decided or `until` (monotonic seconds); as it was last. A
    gateway that is away for a while is waited for."""
    id = document["id"]
    while True:
        show(document)
        if outcome_of(document) is not None or _is_over(until):
            return document
        document = _ask(lambda: rollouts.get(id), document, until)


def wait_for_turn(rollouts: Rollouts, document: Doc, to: int, until: float | None) -> Doc:
    """The rollout to that version, when it has begun: it may have to wait for the end of the one in `document`."""
    model, looks = document["model"], 0
    while document["to"] != to and not _is_over(until):
        document = _ask(lambda: find(rollouts, model, None), document, until)
        looks += not document["active"] and document["to"] != to
        if looks > LATE_LOOKS:
            raise CommandFailed(f"version {to} of {model} waited for rollout {document['id']}, and cannot begin")
    return document


def _ask(ask: Callable[[], Doc], before: Doc, until: float | None) -> Doc:
    """After a while; what was known before when nobody answers."""
    time.sleep(POLL_SECONDS)
    try:
        with told():
            return ask()
    except CommandFailed as failure:
        if failure.exit_code != ExitCode.UNAVAILABLE or _is_over(until):
            raise
        return before


def _is_over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _wait(
    rollouts: Rollouts, document: Doc, to: int, seconds: float | None, junit: Path | None, as_json: bool
) -> int:  # fmt: skip
    began = time.monotonic()
    until = None if seconds is None else began + seconds
    begun = wait_for_turn(rollouts, document, to, until)
    last = follow(rollouts, begun, until, lambda document: None)
    outcome = decided(last) if last["to"] == to else Outcome.INCONCLUSIVE
    if junit is not None:
        junit.write_bytes(to_junit(last, outcome, time.monotonic() - began))
    if as_json:
        print_json(last)
    else:
        messages().print(to_view(last))
    return outcome


def read_plan_file(path: Path) -> Doc:
    """The mapping in a file of YAML or JSON; what it means is checked by whoever begins."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandFailed(f"{path} cannot be read: {error}", exit_code=ExitCode.USAGE) from None
    if not isinstance(found, dict):
        raise CommandFailed(f"{path} is no mapping", exit_code=ExitCode.USAGE)
    return found
