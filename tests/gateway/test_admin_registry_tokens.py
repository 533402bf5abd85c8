"""API tokens: what is kept of them, what opens what, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.access import Access, Refusal
from gateway.admin.tokens import SCOPES, Keyring, TokenError, TokenStore, find, mint

HEADERS = {"Host": "127.0.0.1:8002"}
DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(tmp_path: Path, clock: Clock) -> Keyring:
    return Keyring(tmp_path / "tokens.json", clock)


def test_a_token_is_known_by_its_text_alone(store: TokenStore, keyring: Keyring, clock: Clock) -> None:
    created = store.create("ci", ["publish", "read"], clock.now)
    caller = keyring.find(created.text)
    assert caller is not None
    assert (caller.name, caller.scopes, caller.token_id) == ("ci", {"read", "publish"}, created.token.id)
    assert keyring.find(created.text[:-1] + ("A" if created.text[-1] != "A" else "B")) is None
    assert keyring.find(created.text.replace(created.token.id, "00000000")) is None
    assert keyring.find("") is None


def test_the_file_holds_no_token_and_is_readable_by_its_owner_only(
    store: TokenStore, tmp_path: Path, clock: Clock
) -> None:
    created = store.create("ci", ["read"], clock.now)
    file = tmp_path / "tokens.json"
    assert created.text.rpartition("_")[2] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_opens_nothing_after_its_end(store: TokenStore, keyring: Keyring, clock: Clock) -> None:
    created = store.create("ci", ["read"], clock.now, lifetime=DAY)
    clock.now += DAY - 1
    assert keyring.find(created.text) is not None
    clock.now += 1
    assert keyring.find(created.text) is None
    assert not keyring.is_empty, "an expired token still says that tokens are wanted"


def test_rotation_gives_a_successor_and_a_grace(store: TokenStore, keyring: Keyring, clock: Clock) -> None:
    old = store.create("ci", ["publish"], clock.now, lifetime=90 * DAY)
    clock.now += DAY
    new = store.rotate(old.token.id, clock.now, grace=3600)
    assert (new.token.name, new.token.scopes) == (old.token.name, old.token.scopes)
    assert new.token.expires_at == clock.now + 90 * DAY
    assert keyring.find(old.text) is not None
    assert keyring.find(new.text) is not None
    clock.now += 3600
    assert keyring.find(old.text) is None
    assert keyring.find(new.text) is not None


def test_a_revoked_token_opens_nothing_at_once(store: TokenStore, keyring: Keyring, clock: Clock) -> None:
    kept, gone = store.create("a", ["read"], clock.now), store.create("b", ["read"], clock.now)
    assert keyring.find(gone.text) is not None
    assert store.revoke(gone.token.id).name == "b"
    assert keyring.find(gone.text) is None
    assert keyring.find(kept.text) is not None
    with pytest.raises(TokenError, match="there is no token"):
        store.revoke(gone.token.id)


@pytest.mark.parametrize("scopes", [[], ["write"], ["read", "admin"]])
def test_only_known_scopes_are_given(store: TokenStore, scopes: list[str], clock: Clock) -> None:
    with pytest.raises(TokenError, match="scopes are read, publish, approve, operate"):
        store.create("ci", scopes, clock.now)


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "line\nbreak"])
def test_a_name_that_would_confuse_a_log_is_refused(store: TokenStore, name: str, clock: Clock) -> None:
    with pytest.raises(TokenError):
        store.create(name, ["read"], clock.now)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tokens": [{"id": 1}]}', "\0"])
def test_a_damaged_file_opens_nothing_and_does_not_open_the_door(tmp_path: Path, keyring: Keyring, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    access = Access(api_tokens=keyring)
    assert not keyring.is_empty
    answer = access.admit("/api/v1/models", HEADERS, "read")
    assert isinstance(answer, Refusal)
    assert answer.status == 401


def test_a_scope_that_is_added_by_hand_makes_the_file_damaged(
    store: TokenStore, keyring: Keyring, tmp_path: Path, clock: Clock
) -> None:
    created = store.create("ci", ["read"], clock.now)
    file = tmp_path / "tokens.json"
    document = json.loads(file.read_text())
    document["tokens"][0]["scopes"] = ["everything"]
    file.write_text(json.dumps(document))
    assert keyring.find(created.text) is None


def test_a_change_is_seen_though_size_and_time_stay(store: TokenStore, keyring: Keyring, tmp_path: Path) -> None:
    first = store.create("a", ["read"], 1_000_000.0)
    assert keyring.find(first.text) is not None
    before = (tmp_path / "tokens.json").stat()
    store.revoke(first.token.id)
    second = store.create("a", ["read"], 1_000_000.0)
    os.utime(tmp_path / "tokens.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert keyring.find(second.text) is not None
    assert keyring.find(first.text) is None


def test_without_any_token_loopback_is_open_and_nothing_else_is(keyring: Keyring) -> None:
    assert not isinstance(Access(api_tokens=keyring).admit("/x", HEADERS, "operate"), Refusal)
    refused = Access(api_tokens=keyring, is_loopback=False).admit("/x", HEADERS, "read")
    assert isinstance(refused, Refusal)
    assert refused.status == 401


def test_the_first_token_closes_loopback_too(store: TokenStore, keyring: Keyring, clock: Clock) -> None:
    access = Access(api_tokens=keyring)
    created = store.create("ci", ["approve"], clock.now)
    assert isinstance(access.admit("/x", HEADERS, "read"), Refusal)
    bearer = {**HEADERS, "Authorization": f"Bearer {created.text}"}
    assert not isinstance(access.admit("/x", bearer, "approve"), Refusal)
    assert not isinstance(access.admit("/x", bearer, "read"), Refusal)
    refused = access.admit("/x", bearer, "operate")
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.scope) == (403, "operate")


def test_a_token_of_the_token_file_opens_everything(keyring: Keyring) -> None:
    access = Access(tokens=["a-token-of-enough-characters"], api_tokens=keyring)
    bearer = {**HEADERS, "Authorization": "Bearer a-token-of-enough-characters"}
    for scope in SCOPES:
        caller = access.admit("/x", bearer, scope)
        assert not isinstance(caller, Refusal)
        assert caller.name.startswith("token-file-")
        assert "a-token" not in caller.name


@given(text=st.text(max_size=80))
def test_no_other_text_is_a_token(text: str) -> None:
    created = mint("ci", ["read"], 0.0, None)
    assert find({created.token.id: created.token}, text, 0.0) is None
