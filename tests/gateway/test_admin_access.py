"""Who may use the admin plane."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.admin.access import Access, is_loopback, read_tokens
from gateway.errors import SettingsError

TOKEN = "a-token-of-enough-characters"


def status(access: Access, path: str = "/api/v1/models", **headers: str) -> int:
    named = {"Host": "127.0.0.1:8002", **{name.replace("_", "-"): value for name, value in headers.items()}}
    refusal = access.check(path, named)
    return refusal.status if refusal else 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8002", "127.0.0.1:8002", "[::1]:8002", "10.1.2.3:8002"])
def test_literal_addresses_and_localhost_are_answered(host: str) -> None:
    assert status(Access(), Host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"]
)
def test_a_name_that_may_have_been_rebound_is_refused(host: str) -> None:
    assert status(Access(), Host=host) == 403


def test_allowed_names_are_answered_in_any_case() -> None:
    assert status(Access(["Sluice.internal"]), Host="sluice.INTERNAL:8002") == 200


def test_pages_of_other_origins_are_refused() -> None:
    assert status(Access(), Origin="http://127.0.0.1:8002") == 200
    assert status(Access(), Origin="http://127.0.0.1:9999") == 403
    assert status(Access(), Origin="https://evil.example") == 403
    assert status(Access(), Origin="null") == 403
    assert status(Access(), Origin="http://[") == 403


def test_requests_that_a_browser_calls_cross_site_are_refused() -> None:
    assert status(Access(), Sec_Fetch_Site="same-origin") == 200
    assert status(Access(), Sec_Fetch_Site="none") == 200
    assert status(Access(), Sec_Fetch_Site="cross-site") == 403
    assert status(Access(), Sec_Fetch_Site="same-site") == 403


def test_with_tokens_only_a_bearer_of_one_gets_in() -> None:
    access = Access(tokens=["another-token-1234", TOKEN])
    assert status(access) == 401
    assert status(access, Authorization=f"Bearer {TOKEN}") == 200
    assert status(access, Authorization=f"bearer  {TOKEN} ") == 200
    assert status(access, Authorization=f"Basic {TOKEN}") == 401
    assert status(access, Authorization=f"Bearer {TOKEN[:-1]}") == 401
    assert status(access, Authorization="Bearer ") == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/console.js", "/console.css"])
def test_probes_and_the_empty_console_need_no_token(path: str) -> None:
    assert status(Access(tokens=[TOKEN]), path) == 200


def test_a_token_of_other_bytes_than_text_is_refused_as_any_other() -> None:
    access = Access(tokens=["0123456789abcdef"])
    assert status(access, Authorization="Bearer \udcff\udcfe") == 401


def test_metrics_need_a_token_unless_they_are_made_public() -> None:
    assert status(Access(tokens=[TOKEN]), "/metrics") == 401
    assert status(Access(tokens=[TOKEN], public_metrics=True), "/metrics") == 200


def test_the_host_is_checked_even_for_a_bearer() -> None:
    assert status(Access(tokens=[TOKEN]), Host="evil.example", Authorization=f"Bearer {TOKEN}") == 403


def test_a_token_file_has_one_token_a_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# for the dashboard\n{TOKEN}\n\n  another-token-1234  \n")
    assert read_tokens(file) == [TOKEN, "another-token-1234"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{TOKEN}\nshort\n"])
def test_a_token_file_without_tokens_or_with_guessable_ones_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_tokens(file)
    assert caught.value.key == "admin.token_file"
    assert "short" not in caught.value.reason


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
