"""The registry's API over a real socket: publishing, aliases, approvals, preconditions, problems, uploads."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest
from live_plane import MAX_BYTES, LivePlane

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog

ROOT = "/api/v1/registry"
FIRST, SECOND = models.version_of(1).SerializeToString(), models.version_of(2).SerializeToString()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[LivePlane]:
    with LivePlane(tmp_path).running() as plane:
        yield plane


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(plane: LivePlane, content: bytes, token: str = "") -> int:
    return plane.ask("PUT", f"{ROOT}/objects/{digest(content)}", body=content, token=token)[0]


def publication(content: bytes, **more: Any) -> dict[str, Any]:
    return {"files": [{"path": "model.onnx", "sha256": digest(content), "size": len(content)}], **more}


def publish(plane: LivePlane, content: bytes, *, model: str = "fraud", token: str = "", **more: Any) -> Any:
    assert upload(plane, content, token) in (200, 201)
    status, document, _ = plane.ask(
        "POST", f"{ROOT}/models/{model}/versions", publication(content, **more), token=token
    )
    assert status in (200, 201), document
    return document


def kind(document: Any) -> str:
    assert {"type", "title", "status", "detail"} <= document.keys()
    return str(document["type"]).removeprefix("urn:sluice:problem:")


def test_uploaded_files_become_the_next_version_and_the_same_files_none(plane: LivePlane) -> None:
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(FIRST)}")[0] == 404
    assert upload(plane, FIRST) == 201
    assert upload(plane, FIRST) == 200
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(FIRST)}")[0] == 200
    path = f"{ROOT}/models/fraud/versions"
    status, first, _ = plane.ask("POST", path, publication(FIRST, tags={"team": "risk"}, metrics={"auc": 0.9}))
    assert (status, first["version"], first["is_new"]) == (201, 1, True)
    status, again, _ = plane.ask("POST", path, publication(FIRST))
    assert (status, again["version"], again["is_new"], again["digest"]) == (200, 1, False, first["digest"])
    assert publish(plane, SECOND)["version"] == 2
    _, listed, _ = plane.ask("GET", path)
    assert [one["version"] for one in listed["versions"]] == [1, 2]
    assert listed["versions"][0]["tags"] == {"team": "risk"}
    _, found, _ = plane.ask("GET", f"{path}/1")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    assert found["may_serve"] is True


def test_the_manifest_is_the_very_text_that_was_hashed(plane: LivePlane) -> None:
    published = publish(plane, FIRST)
    status, _, headers = plane.ask("GET", f"{ROOT}/models/fraud/versions/1/manifest")
    assert (status, headers["etag"]) == (200, f'"{published["digest"]}"')
    connection = http.client.HTTPConnection("127.0.0.1", plane.port)
    connection.request("GET", f"{ROOT}/models/fraud/versions/1/manifest")
    assert digest(connection.getresponse().read()) == published["digest"]
    connection.close()


def test_what_is_asked_again_unchanged_is_not_sent_again(plane: LivePlane) -> None:
    publish(plane, FIRST, alias="champion")
    for path in (
        "models",
        "models/fraud/versions",
        "models/fraud/versions/1",
        "models/fraud/aliases/champion",
        "audit",
    ):
        status, _, headers = plane.ask("GET", f"{ROOT}/{path}")
        assert status == 200
        assert plane.ask("GET", f"{ROOT}/{path}", If_None_Match=headers["etag"])[:2] == (304, b""), path


def test_an_alias_moves_only_for_who_knows_where_it_points(plane: LivePlane) -> None:
    publish(plane, FIRST)
    publish(plane, SECOND)
    path = f"{ROOT}/models/fraud/aliases/champion"
    assert plane.ask("GET", path)[0] == 404
    status, problem, _ = plane.ask("PUT", path, {"version": 1})
    assert (status, kind(problem)) == (428, "precondition-required")
    status, moved, headers = plane.ask("PUT", path, {"version": 1, "reason": "first"}, If_None_Match="*")
    assert (status, moved["version"]) == (200, 1)
    first = headers["etag"]
    assert plane.ask("PUT", path, {"version": 2}, If_None_Match="*")[0] == 412
    status, _, headers = plane.ask("PUT", path, {"version": 2}, If_Match=first)
    assert status == 200
    status, problem, _ = plane.ask("PUT", path, {"version": 1}, If_Match=first)
    assert (status, kind(problem), problem["etag"]) == (412, "precondition-failed", headers["etag"])
    history = plane.ask("GET", f"{path}/history")[1]["history"]
    assert [(one["version"], one["reason"]) for one in history] == [(2, ""), (1, "first")]
    status, gone, _ = plane.ask("DELETE", f"{path}?reason=enough", If_Match=headers["etag"])
    assert (status, gone["version"]) == (200, None)
    assert plane.ask("GET", path)[0] == 404
    assert plane.ask("PUT", path, {"version": 1}, If_None_Match="*")[0] == 200, "a removed alias may come back"


def test_an_alias_points_at_versions_that_are_there_and_not_rejected(plane: LivePlane) -> None:
    publish(plane, FIRST)
    path = f"{ROOT}/models/fraud/aliases/champion"
    status, problem, _ = plane.ask("PUT", path, {"version": 7}, If_None_Match="*")
    assert (status, kind(problem)) == (404, "not-found")
    token = plane.token("approve", "operate", name="bob")
    etag = plane.ask("GET", f"{ROOT}/models/fraud/versions/1", token=token)[2]["etag"]
    decision = {"decision": "rejected", "reason": "drifts"}
    status, document, _ = plane.ask(
        "PUT", f"{ROOT}/models/fraud/versions/1/approval", decision, token=token, If_Match=etag
    )
    assert (status, document["stage"], document["may_serve"]) == (200, "rejected", False)
    status, problem, _ = plane.ask("PUT", path, {"version": 1}, token=token, If_None_Match="*")
    assert (status, kind(problem)) == (409, "version-rejected")


def test_approval_is_for_somebody_else_than_the_author_and_for_nobody_unknown(plane: LivePlane) -> None:
    path, decision = f"{ROOT}/models/fraud/versions/1", {"decision": "approved", "reason": "looked at it"}
    publish(plane, FIRST, lineage={"author": "ann"})
    etag = plane.ask("GET", path)[2]["etag"]
    status, problem, _ = plane.ask("PUT", f"{path}/approval", decision, If_Match=etag)
    assert (status, kind(problem)) == (403, "approver-unknown")
    ann, bob = plane.token("approve", name="ann"), plane.token("approve", name="bob")
    status, problem, _ = plane.ask("PUT", f"{path}/approval", decision, token=ann, If_Match=etag)
    assert (status, kind(problem)) == (403, "author-may-not-approve")
    assert plane.ask("PUT", f"{path}/approval", decision, token=bob, If_Match='"old"')[0] == 412
    status, document, headers = plane.ask("PUT", f"{path}/approval", decision, token=bob, If_Match=etag)
    assert (status, document["stage"]) == (200, "approved")
    assert headers["etag"] == plane.ask("GET", path, token=bob)[2]["etag"]
    entry = plane.ask("GET", f"{ROOT}/audit?limit=1000", token=bob)[1]["entries"][-1]
    assert (entry["actor"], entry["action"], entry["reason"]) == ("bob", "version.approve", "looked at it")


def test_a_decision_needs_a_reason(plane: LivePlane) -> None:
    publish(plane, FIRST)
    token = plane.token("approve")
    for reason in ({}, {"reason": " "}):
        status, problem, _ = plane.ask(
            "PUT",
            f"{ROOT}/models/fraud/versions/1/approval",
            {"decision": "approved", **reason},
            token=token,
            If_Match="*",
        )
        assert (status, kind(problem)) == (400, "invalid-request")
        assert problem["detail"].startswith("reason")


def test_a_policy_is_replaced_whole_and_checked(plane: LivePlane) -> None:
    publish(plane, FIRST)
    path = f"{ROOT}/models/fraud/policy"
    _, document, headers = plane.ask("GET", path)
    policy = {**document["policy"], "served_by": "alias:champion"}
    assert plane.ask("PUT", path, {"policy": policy})[0] == 428
    status, changed, new = plane.ask("PUT", path, {"policy": policy}, If_Match=headers["etag"])
    assert (status, changed["policy"]["served_by"]) == (200, "alias:champion")
    assert plane.ask("GET", path)[2]["etag"] == new["etag"]
    assert plane.ask("PUT", path, {"policy": policy}, If_Match=headers["etag"])[0] == 412
    for wrong in ({"served_by": "whatever"}, {"approval": {"requires": 1}}, {"unknown": 1}, {"served_by": 3}):
        status, problem, _ = plane.ask("PUT", path, {"policy": wrong}, If_Match=new["etag"])
        assert (status, kind(problem)) == (422, "invalid-policy"), wrong


def test_what_a_policy_asks_for_is_asked_at_once(plane: LivePlane) -> None:
    publish(plane, FIRST)
    path = f"{ROOT}/models/fraud/policy"
    plane.ask("PUT", path, {"policy": {"approval": {"card_fields": ["owner"]}}}, If_Match="*")
    upload(plane, SECOND)
    status, problem, _ = plane.ask("POST", f"{ROOT}/models/fraud/versions", publication(SECOND))
    assert (status, kind(problem)) == (422, "policy-refused")
    assert problem["reasons"] == ["the model card lacks owner"]
    assert publish(plane, SECOND, card={"owner": "risk"})["version"] == 2


def test_versions_can_be_compared(plane: LivePlane) -> None:
    publish(plane, FIRST, metrics={"auc": 0.5})
    publish(plane, SECOND, metrics={"auc": 0.75})
    _, document, _ = plane.ask("GET", f"{ROOT}/models/fraud/diff?before=1&after=2")
    assert document["compatible"] is True
    assert {"section": "metrics", "item": "auc", "before": 0.5, "after": 0.75} in document["changes"]
    for query in ("before=1", "before=1&after=x", "before=0&after=2", "before=1&after=-2"):
        assert plane.ask("GET", f"{ROOT}/models/fraud/diff?{query}")[0] == 400


def test_the_audit_log_comes_in_pages_and_shows_tampering(plane: LivePlane, tmp_path: Path) -> None:
    publish(plane, FIRST, alias="champion")
    publish(plane, SECOND, alias="champion")
    entries = plane.ask("GET", f"{ROOT}/audit?limit=3")[1]["entries"]
    assert [one["seq"] for one in entries] == [1, 2, 3]
    assert [one["seq"] for one in plane.ask("GET", f"{ROOT}/audit?after=3")[1]["entries"]] == [4]
    report = plane.ask("GET", f"{ROOT}/audit/verification")[1]
    assert (report["ok"], report["entries"], report["first_bad"]) == (True, 4, None)
    anchor = f"{report['entries']}:{report['head']}"
    assert plane.ask("GET", f"{ROOT}/audit/verification?anchor={anchor}")[1]["ok"] is True
    assert plane.ask("GET", f"{ROOT}/audit/verification?anchor=4:{'0' * 64}")[1]["ok"] is False
    assert plane.ask("GET", f"{ROOT}/audit/verification?anchor=nonsense")[0] == 400
    import sqlite3

    with sqlite3.connect(tmp_path / "catalog.db") as database:
        database.execute("UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    database.close()
    report = plane.ask("GET", f"{ROOT}/audit/verification")[1]
    assert (report["ok"], report["first_bad"]["seq"]) == (False, 2)


def test_verification_reads_every_byte_again(plane: LivePlane, tmp_path: Path) -> None:
    publish(plane, FIRST)
    path = f"{ROOT}/models/fraud/versions/1/verification"

    def problems() -> list[str]:
        lines = plane.ask("POST", path)[1].splitlines()
        return [one["problem"] for one in map(json.loads, lines) if "path" in one]

    assert problems() == [""]
    stored = LocalArtifacts(tmp_path / "artifacts")._path(digest(FIRST))
    stored.chmod(0o600)
    stored.write_bytes(b"\0" * len(FIRST))
    assert problems()[0].startswith("has other bytes")
    stored.write_bytes(FIRST[:-1])
    assert problems()[0].startswith(f"has {len(FIRST) - 1} bytes")
    stored.unlink()
    assert problems() == ["missing"]
    assert plane.ask("POST", f"{ROOT}/models/fraud/versions/9/verification")[0] == 404


def test_only_what_nothing_refers_to_is_collected(plane: LivePlane) -> None:
    publish(plane, FIRST)
    upload(plane, b"left behind")
    young = plane.ask("POST", f"{ROOT}/gc", {})[1]
    assert young["objects"] == [], "a push may be under way"
    dry = plane.ask("POST", f"{ROOT}/gc", {"dry_run": True, "grace_seconds": 0})[1]
    assert [one["sha256"] for one in dry["objects"]] == [digest(b"left behind")]
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(b'left behind')}")[0] == 200
    done = plane.ask("POST", f"{ROOT}/gc", {"grace_seconds": 0})[1]
    assert (done["bytes"], len(done["objects"])) == (11, 1)
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(b'left behind')}")[0] == 404
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(FIRST)}")[0] == 200


def test_other_bytes_than_announced_are_not_stored(plane: LivePlane, tmp_path: Path) -> None:
    status, problem, _ = plane.ask("PUT", f"{ROOT}/objects/{digest(b'these')}", body=b"those")
    assert (status, kind(problem)) == (422, "digest-mismatch")
    assert plane.ask("HEAD", f"{ROOT}/objects/{digest(b'these')}")[0] == 404
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_is_refused_before_it_is_too_large(plane: LivePlane) -> None:
    with socket.create_connection(("127.0.0.1", plane.port), timeout=10) as connection:
        head = f"PUT {ROOT}/objects/{'a' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096).splitlines()[0]


def test_an_upload_says_its_length(plane: LivePlane) -> None:
    with socket.create_connection(("127.0.0.1", plane.port), timeout=10) as connection:
        head = (
            f"PUT {ROOT}/objects/{'a' * 64} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert b" 411 " in connection.recv(4096).splitlines()[0]


def test_an_upload_without_progress_is_given_up(tmp_path: Path) -> None:
    with LivePlane(tmp_path, silence=0.05).running() as plane:
        with socket.create_connection(("127.0.0.1", plane.port), timeout=10) as connection:
            head = f"PUT {ROOT}/objects/{'a' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nsome"
            connection.sendall(head.encode())
            assert b" 408 " in connection.recv(4096).splitlines()[0]
        assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_that_is_cut_off_leaves_nothing(plane: LivePlane, tmp_path: Path) -> None:
    with socket.create_connection(("127.0.0.1", plane.port), timeout=10) as connection:
        head = f"PUT {ROOT}/objects/{'a' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nsome"
        connection.sendall(head.encode())
    assert upload(plane, FIRST) == 201, "others go on"
    assert plane.ask("HEAD", f"{ROOT}/objects/{'a' * 64}")[0] == 404


def test_what_is_missing_is_named(plane: LivePlane) -> None:
    status, problem, _ = plane.ask("POST", f"{ROOT}/models/fraud/versions", publication(FIRST))
    assert (status, kind(problem), problem["missing"]) == (409, "not-uploaded", [digest(FIRST)])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../model.onnx", "hidden or relative"),
        ("/etc/model.onnx", "absolute"),
        ("a/../../model.onnx", "hidden or relative"),
        ("a\\b", "backslash"),
        (".hidden", "hidden"),
    ],
)
def test_files_that_would_lie_elsewhere_are_refused(plane: LivePlane, tmp_path: Path, path: str, reason: str) -> None:
    upload(plane, FIRST)
    asked = publication(FIRST)
    asked["files"][0]["path"] = path
    status, problem, _ = plane.ask("POST", f"{ROOT}/models/fraud/versions", asked)
    assert (status, kind(problem)) == (422, "artifact-refused")
    assert reason in problem["reason"]
    assert not list(tmp_path.rglob("model.onnx"))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"files": []}, 400),
        ({"files": "all"}, 400),
        ({"files": [3]}, 400),
        ({"unknown": 1}, 400),
        ({"tags": {"a": 1}}, 400),
        ({"metrics": {"auc": "high"}}, 400),
        ({"lineage": {"git_dirty": "yes"}}, 400),
        ({"lineage": {"cluster": "x"}}, 400),
        ({"alias": "7"}, 400),
        ({"lineage": {"created_at": "yesterday"}}, 422),
        ({"config_text": "nonsense {"}, None),
    ],
)
def test_publications_that_make_no_sense_are_named(plane: LivePlane, change: dict[str, Any], status: int) -> None:
    upload(plane, FIRST)
    found, problem, _ = plane.ask("POST", f"{ROOT}/models/fraud/versions", {**publication(FIRST), **change})
    if status is not None:
        assert found == status, problem
        kind(problem)


def test_a_file_that_is_no_model_is_refused(plane: LivePlane) -> None:
    upload(plane, models.BROKEN)
    status, problem, _ = plane.ask("POST", f"{ROOT}/models/fraud/versions", publication(models.BROKEN))
    assert status in (415, 422), problem
    assert plane.ask("GET", f"{ROOT}/models/fraud/versions")[0] == 404


def test_bodies_that_are_no_json_are_refused(plane: LivePlane) -> None:
    path = f"{ROOT}/models/fraud/policy"
    for body in (b"", b"{", b"[]", b"nope", b"\xff", b'{"policy": NaN}', b"[" * 100_000):
        status, problem, _ = plane.ask("PUT", path, body=body, Content_Type="application/json")
        assert (status, kind(problem)) == (400, "invalid-request")
    status, problem, _ = plane.ask("PUT", path, body=b"policy=1", Content_Type="application/x-www-form-urlencoded")
    assert status == 415


@pytest.mark.parametrize(
    "path", ["models/..%2f/versions", "models/%00/policy", "models/a%20b/aliases", "models/-x/policy"]
)
def test_odd_names_are_no_names(plane: LivePlane, path: str) -> None:
    status, problem, _ = plane.ask("GET", f"{ROOT}/{path}")
    assert (status, kind(problem)) == (400, "invalid-name")


def test_pages_of_other_origins_change_nothing(plane: LivePlane) -> None:
    publish(plane, FIRST)
    path = f"{ROOT}/models/fraud/aliases/champion"
    for headers in ({"Origin": "https://evil.example"}, {"Host": "rebound.example"}, {"Sec_Fetch_Site": "cross-site"}):
        status, problem, _ = plane.ask("PUT", path, {"version": 1}, If_None_Match="*", **headers)
        assert (status, kind(problem)) == (403, "forbidden")
    assert plane.ask("GET", path)[0] == 404


def test_an_unreachable_database_is_said_to_be_and_asked_again(tmp_path: Path) -> None:
    plane = LivePlane(tmp_path)
    plane.catalog_url = "sqlite:////proc/nowhere/catalog.db"
    with plane.running():
        status, problem, _ = plane.ask("GET", f"{ROOT}/models")
        assert (status, kind(problem)) == (503, "unavailable")
        plane.catalog_url = f"sqlite:///{tmp_path / 'catalog.db'}"
        assert plane.ask("GET", f"{ROOT}/models")[:2] == (200, {"models": []})


def test_models_are_listed_with_what_matters(plane: LivePlane) -> None:
    publish(plane, FIRST, alias="champion")
    publish(plane, SECOND)
    publish(plane, FIRST, model="other")
    _, document, _ = plane.ask("GET", f"{ROOT}/models")
    assert [(one["name"], one["versions"], one["latest"], one["aliases"]) for one in document["models"]] == [
        ("fraud", 2, 2, {"champion": 1}),
        ("other", 1, 1, {}),
    ]


def test_the_catalog_is_the_one_that_others_see(plane: LivePlane) -> None:
    publish(plane, FIRST, alias="champion")
    catalog = Catalog(plane.catalog_url)
    assert catalog.version("fraud", 1).author == "anonymous"
    assert catalog.verify_audit() is None
    catalog.close()
