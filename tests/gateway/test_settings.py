"""Where settings come from, which wins, and how a bad one is told."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import server
from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.settings_sources import Entry, entries, load
from gateway.settings_table import rewritten

README = Path(__file__).parents[2] / "README.md"
GATEWAY = Path(server.__file__).parent


def write(folder: Path, text: str) -> Path:
    file = folder / "sluice.yaml"
    file.write_text(text)
    return file


def refused(file: Path | None = None, environ: dict[str, str] | None = None, **flags: Any) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(file, environ or {}, {key.replace("__", "."): value for key, value in flags.items()})
    return caught.value


def test_nothing_given_is_the_defaults() -> None:
    settings = load()
    assert settings.http_port == 8000
    assert settings.host == "127.0.0.1"
    assert settings == dataclasses.replace(Settings(), data_dir=Path("~/.sluice").expanduser())


def test_the_environment_wins_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    file = write(tmp_path, "http_port: 1\ngrpc_port: 1001\nadmin_port: 1002\nbatching:\n  max_queue_rows: 7\n")
    settings = load(file, {"SLUICE_HTTP_PORT": "2", "SLUICE_GRPC_PORT": "2001"}, {"http_port": 3, "admin_port": None})
    assert (settings.http_port, settings.grpc_port, settings.admin_port) == (3, 2001, 1002)
    assert settings.batching.max_queue_rows == 7


def test_a_section_is_reached_by_two_underscores_in_the_environment() -> None:
    assert load(environ={"SLUICE_HTTP__MAX_HEADERS": "5"}).http.max_headers == 5


def test_an_unknown_key_is_named_with_its_source_and_the_nearest_known_one(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "batching:\n  max_queue_row: 5\n"))
    assert error.key == "batching.max_queue_row"
    assert "did you mean batching.max_queue_rows?" in error.reason
    assert error.origin.endswith("sluice.yaml")


def test_a_key_in_the_wrong_section_is_found_in_its_own() -> None:
    assert "batching.max_queue_rows" in refused(workers__max_queue_rows=1).reason


def test_an_unknown_variable_is_an_error_that_names_it() -> None:
    error = refused(environ={"SLUICE_HTP_PORT": "1"})
    assert "SLUICE_HTP_PORT" in error.origin
    assert "did you mean http_port?" in error.reason


def test_variables_of_a_kubernetes_service_called_sluice_are_left_alone() -> None:
    environ = {
        "SLUICE_SERVICE_HOST": "10.0.0.1",
        "SLUICE_SERVICE_PORT": "8000",
        "SLUICE_SERVICE_PORT_HTTP": "8000",
        "SLUICE_PORT": "tcp://10.0.0.1:8000",
        "SLUICE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "SLUICE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SLUICE_HTTP_PORT": "tcp://10.0.0.2:80",  # a Service called sluice-http
    }
    assert load(environ=environ).http_port == 8000


def test_the_variable_that_names_the_file_is_no_setting() -> None:
    load(environ={"SLUICE_CONFIG": "/etc/sluice.yaml"})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("http_port", 70000, "must be from 0 to 65535, not 70000"),
        ("http_port", "http", "must be a whole number, not 'http'"),
        ("http_port", True, "must be a whole number, not a truth value"),
        ("http_port", 80.5, "must be a whole number, not 80.5"),
        ("http.max_body_bytes", "3 GiB", "must be from 1 B to 2 GiB, not 3 GiB"),
        ("http.max_body_bytes", "3 parsecs", "units: b, k, kb"),
        ("drain.timeout_seconds", -1, "must be from 0 s to 86400 s, not -1"),
        ("drain.timeout_seconds", math.nan, "must be a number, not nan"),
        ("logs.level", "loud", "must be one of debug, info, warning, error, not 'loud'"),
        ("tls.require_client_certificate", "perhaps", "must be true or false, not 'perhaps'"),
        ("models.load_on_start", 5, "must be a list of words, not 5"),
        ("host", 5, "must be text, not int"),
        ("host", "", "must be text, not empty"),
        ("http", 5, "there is no such setting"),
    ],
)
def test_a_bad_value_names_its_key_and_what_is_allowed(key: str, value: Any, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags={key: value})
    assert caught.value.key == key
    assert reason in caught.value.reason
    assert caught.value.origin == "a flag"


@pytest.mark.parametrize(
    ("text", "bytes_"), [("4096", 4096), ("64 KiB", 65536), ("64kib", 65536), ("1.5 MiB", 1572864), ("2MB", 2_000_000)]
)
def test_sizes_may_carry_a_unit(text: str, bytes_: int) -> None:
    assert load(flags={"http.max_body_bytes": text}).http.max_body_bytes == bytes_


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("250ms", 0.25), ("1.5 s", 1.5), ("2m", 120.0), ("1e-3", 0.001)]
)
def test_times_may_carry_a_unit(text: str, seconds: float) -> None:
    assert load(flags={"drain.timeout_seconds": text}).drain.timeout_seconds == pytest.approx(seconds)


def test_lists_come_from_yaml_or_from_commas(tmp_path: Path) -> None:
    file = write(tmp_path, "models:\n  control_mode: explicit\n  load_on_start: [a, b]\n")
    assert load(file).models.load_on_start == ("a", "b")
    environ = {"SLUICE_MODELS__CONTROL_MODE": "explicit", "SLUICE_MODELS__LOAD_ON_START": "a, c"}
    assert load(environ=environ).models.load_on_start == ("a", "c")


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("- a\n- b\n", "", "must be a mapping of settings, not a list"),
        ("http: 5\n", "http", "is a section"),
        ("http_port: [1\n", "", "line 2:"),
        ("http_port:\n", "http_port", "must be a whole number, not a empty value"),
    ],
)
def test_a_file_of_the_wrong_form_is_told_as_such(tmp_path: Path, text: str, key: str, reason: str) -> None:
    file = write(tmp_path, text)
    error = refused(file)
    assert error.key == (key or str(file))
    assert reason in error.reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "absent.yaml")
    assert error.key.endswith("absent.yaml")
    assert "No such file" in error.reason


def test_an_empty_file_or_section_changes_nothing(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == load()
    assert load(write(tmp_path, "http:\n")) == load()


def test_two_ports_may_not_be_the_same_unless_the_system_chooses() -> None:
    assert refused(http_port=9000, grpc_port=9000).key == "grpc_port"
    assert load(flags={"http_port": 0, "grpc_port": 0, "admin_port": 0}).http_port == 0


def test_a_certificate_needs_its_key_and_mutual_tls_needs_authorities(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.write_text("")
    assert refused(tls__certificate_file=pem).key == "tls.private_key_file"
    assert refused(tls__private_key_file=pem).key == "tls.certificate_file"
    both = {"tls__certificate_file": pem, "tls__private_key_file": pem}
    assert refused(**both, tls__require_client_certificate=True).key == "tls.client_ca_file"
    assert refused(tls__client_ca_file=pem).key == "tls.certificate_file"
    error = refused(**both, tls__client_ca_file=tmp_path / "no")
    assert (error.key, "there is no file" in error.reason) == ("tls.client_ca_file", True)


def test_draining_has_time_left_after_its_delay() -> None:
    error = refused(drain__delay_seconds="30s", drain__timeout_seconds="30s")
    assert error.key == "drain.timeout_seconds"
    assert "delay_seconds" in error.reason
    assert load(flags={"drain.delay_seconds": "5s"}).drain.delay_seconds == 5
    assert load(flags={"drain.timeout_seconds": 0}).drain.timeout_seconds == 0


def test_start_models_need_explicit_control() -> None:
    assert refused(models__load_on_start="a").key == "models.load_on_start"


def test_every_default_is_within_its_own_limits() -> None:
    for entry in entries():
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            assert entry.leaf.low is not None, entry.key
            assert entry.leaf.high is not None, entry.key
            assert entry.leaf.low <= entry.default <= entry.leaf.high, entry.key


def test_every_setting_is_explained_and_has_a_variable_of_its_own() -> None:
    found = list(entries())
    assert all(entry.leaf.help for entry in found)
    assert len({entry.variable for entry in found}) == len(found)


@given(st.sampled_from([entry for entry in entries() if entry.type is int and entry.leaf.unit == ""]), st.data())
def test_any_number_within_the_limits_survives_its_way_through_the_environment(entry: Any, data: Any) -> None:
    if entry.key.endswith("_port"):
        return  # two of them may not be equal
    number = data.draw(st.integers(int(entry.leaf.low), int(entry.leaf.high)))
    section, _, name = entry.key.rpartition(".")
    settings = load(environ={entry.variable: str(number)})
    assert getattr(getattr(settings, section), name) == number


@given(
    st.dictionaries(
        st.text(max_size=20), st.one_of(st.none(), st.integers(), st.text(max_size=9), st.floats()), max_size=4
    )
)
def test_whatever_is_given_is_taken_or_refused_by_name(flags: dict[str, Any]) -> None:
    try:
        load(flags=flags)
    except SettingsError as error:
        assert error.key in flags


def test_the_readme_shows_the_settings_as_they_are() -> None:
    """Written by `python -m gateway.settings_table README.md`."""
    text = README.read_text("utf-8")
    assert text == rewritten(text)


def test_a_number_beyond_every_limit_is_refused_like_any_other() -> None:
    assert refused(batching__max_queue_rows="1" + "0" * 400).key == "batching.max_queue_rows"


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.key)
def test_every_setting_is_read_by_somebody(entry: Entry) -> None:
    name = entry.key.rpartition(".")[2]
    files = [file for file in GATEWAY.rglob("*.py") if not file.name.startswith("settings")]
    assert any(re.search(rf"\.{name}\b|\"{name}\"", file.read_text("utf-8")) for file in files)


# What the connection decides by itself, and the table of statuses.
NOT_SETTINGS = {"drain_grace", "send_high_water", "statuses"}


@pytest.mark.parametrize(
    ("stub", "cls", "build"),
    [
        ("http1_request", "Http1Limits", lambda: server.http1_limits(Settings().http)),
        ("http2_limits", "Http2Limits", lambda: server.http2_limits(Settings().grpc)),
    ],
)
def test_every_limit_of_a_connection_is_a_setting_with_the_same_default(
    monkeypatch: pytest.MonkeyPatch, stub: str, cls: str, build: Any
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(server, cls, lambda **limits: given.update(limits))
    build()
    tree = ast.parse((GATEWAY.parent / "kernels" / f"{stub}.pyi").read_text("utf-8"))
    [limits] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls]
    [init] = [node for node in limits.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    defaults = {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        if argument.arg not in NOT_SETTINGS and default is not None
    }
    assert {name: value for name, value in given.items() if name not in NOT_SETTINGS} == defaults
