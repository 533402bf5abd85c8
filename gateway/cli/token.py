"""`sluice token`: API tokens of the admin plane, in the data folder of a gateway, which follows without a restart."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gateway.admin.tokens import FILENAME, SCOPES, ApiToken, Created, TokenError, TokenStore
from gateway.cli.failure import CommandFailed, ExitCode
from gateway.cli.options import AsJson, Config, DataDir, messages, output, print_json, table, when
from gateway.cli.registry import settings_of

token = typer.Typer(
    help="Create, list, rotate and revoke API tokens of the admin plane.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@token.command()
def create(
    scope: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(SCOPES)}.")],
    name: Annotated[str, typer.Option(help="Who or what uses it; the audit log names it.")],
    expires: Annotated[str, typer.Option(help="Its lifetime, such as 12h, 90d; `never`.")] = "90d",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it, this once."""
    lifetime = None if expires == "never" else duration(expires)
    scopes = [word.strip() for word in scope.split(",") if word.strip()]
    store = _store(data_dir, config)
    try:
        is_first = not store.list()
        created = store.create(name, scopes, time.time(), lifetime)
    except TokenError as error:
        raise CommandFailed(str(error), exit_code=ExitCode.USAGE) from None
    _show_created(created, store, as_json)
    if is_first:
        messages().print("The admin API of this gateway asks for a token from now on.", style="yellow")


@token.command("list")
def list_tokens(data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show who has a token, for what and until when; not the tokens, which nobody can show."""
    tokens, now = _try(_store(data_dir, config).list), time.time()
    if as_json:
        print_json({"tokens": [to_document(one, now) for one in tokens]})
        return
    if not tokens:
        output().print("There are no tokens: on loopback the admin API is open.")
        return
    rows = table(("ID", "NAME", "SCOPES", "CREATED", "EXPIRES"))
    for one in tokens:
        gone = one.is_expired(now)
        expires = Text(when(one.expires_at, now) if one.expires_at else "never", "red" if gone else "")
        rows.add_row(Text(one.id, "bold"), one.name, ", ".join(one.scopes), when(one.created_at, now), expires)
    output().print(rows)


@token.command()
def rotate(
    id: Annotated[str, typer.Argument(help="The token's id.")],
    grace: Annotated[str, typer.Option(help="How long the old one still works.")] = "1h",
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Replace a token: a new one with the same name, scopes and lifetime; the old one ends after the grace."""
    seconds = duration(grace)
    store = _store(data_dir, config)
    _show_created(_try(lambda: store.rotate(id, time.time(), seconds)), store, as_json)


@token.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The token's id.")],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """End a token at once."""
    store = _store(data_dir, config)
    revoked = _try(lambda: store.revoke(id))
    if as_json:
        print_json({"revoked": to_document(revoked, time.time())})
    else:
        output().print(f"Revoked {revoked.id} ({revoked.name}).")


def duration(text: str) -> float:
    """`90d`, `12h`, `30m`, `45s` in seconds."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if match is None:
        raise CommandFailed(f"{text!r} is no length of time: write 30m, 12h, 90d", exit_code=ExitCode.USAGE)
    return float(int(match[1]) * _UNITS[match[2]])


def to_document(one: ApiToken, now: float) -> dict[str, Any]:
    """Without anything of the secret."""
    return {
        "id": one.id,
        "name": one.name,
        "scopes": list(one.scopes),
        "created_at": _iso(one.created_at),
        "expires_at": None if one.expires_at is None else _iso(one.expires_at),
        "expired": one.is_expired(now),
    }


def _show_created(created: Created, store: TokenStore, as_json: bool) -> None:
    if as_json:
        print_json({**to_document(created.token, created.token.created_at), "token": created.text})
        return
    one = created.token
    until = _iso(one.expires_at) if one.expires_at else "revoked"
    told = f"Token {one.id} for {one.name}: {', '.join(one.scopes)}, until {until}."
    told += f" It holds for the gateway over {store.file.parent}, and is not shown again:"
    messages().print(told, soft_wrap=True)
    Console(soft_wrap=True, highlight=False).print(created.text)


def _store(data_dir: Any, config: Any) -> TokenStore:
    return TokenStore(settings_of(data_dir, config).data_dir / FILENAME)


def _try(work: Any) -> Any:
    try:
        return work()
    except TokenError as error:
        not_there = str(error).startswith("there is no token")
        raise CommandFailed(str(error), exit_code=ExitCode.NOT_FOUND if not_there else ExitCode.FAILED) from None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
