"""What a gateway sees of an MLflow model registry, on a real tracking server."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_house import contents
from mlflow_server import ONNX_MLMODEL, PICKLE_MLMODEL, MlflowServer, mlflow_server

from registry.cache import CacheLimits, ContentCache
from registry.errors import InvalidPolicy, SourceUnavailable, UnsupportedFormat
from registry.ledger import Ledger
from registry.sources import Snapshot
from registry.sources.mlflow import MlflowSource, Reference, onnx_file
from registry.sources.mlflow_client import MlflowAccess, MlflowClient

# Installing and starting an MLflow server takes minutes: `make test-heavy`.
pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

METADATA = {"conda.yaml": b"x", "python_env.yaml": b"x", "requirements.txt": b"x", "input_example.json": b"{}"}


def files(data: bytes, name: str = "model.onnx", **more: bytes) -> dict[str, bytes]:
    return {"MLmodel": ONNX_MLMODEL.format(data=name).encode(), name: data, **METADATA, **more}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class House:
    def __init__(self, server: MlflowServer, folder: Path) -> None:
        self.server, self.folder, self.clock = server, folder, Clock()
        self.sources: list[MlflowSource] = []

    def start(self, *models: str, access: MlflowAccess = MlflowAccess(), url: str = "", **limits: int) -> MlflowSource:
        cache = ContentCache(self.folder / "cache", CacheLimits(**limits))
        source = MlflowSource(
            url or self.server.url, tuple(map(Reference.parse, models)), access, cache,
            Ledger(cache.root / "ledger", "it"), patience=30.0, answer_seconds=30.0, clock=self.clock,
        )  # fmt: skip
        source.open()
        self.sources.append(source)
        return source


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def house(server: MlflowServer, tmp_path: Path) -> Iterator[House]:
    house = House(server, tmp_path)
    yield house
    for source in house.sources:
        source.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model for this test alone."""
    return f"model-{abs(hash(request.node.nodeid)) % 10**12}"


def listed(snapshot: Snapshot, model: str) -> dict[int, dict[str, bytes]]:
    return {version: contents(each.path) for version, each in snapshot.models[model].versions.items()}


def reasons(snapshot: Snapshot) -> str:
    return "; ".join(f"{problem.path}: {problem.reason}" for problem in snapshot.problems)


def test_versions_are_served_by_alias_number_or_the_latest(house: House, name: str):
    for number in (1, 2, 3):
        house.server.register(name, files(b"%d" % number))
    house.server.alias(name, "champion", 1)
    house.server.alias(name, "candidate", 2)
    for reference, version in ((name, 1), (f"{name}@candidate", 2), (f"{name}/2", 2), (f"{name}/latest", 3)):
        assert listed(house.start(reference).scan(), name) == {version: {"model.onnx": b"%d" % version}}


def test_an_alias_is_followed_and_an_unchanged_one_is_the_same_snapshot(house: House, name: str):
    for number in (1, 2):
        house.server.register(name, files(b"%d" % number))
    house.server.alias(name, "champion", 1)
    source = house.start(name)
    first = source.scan()
    assert source.scan() is first
    house.server.alias(name, "champion", 2)
    assert listed(source.scan(), name) == {2: {"model.onnx": b"2"}}


def test_weights_beside_the_model_come_along_and_mlflows_own_files_do_not(house: House, name: str):
    house.server.register(name, files(b"m", "deep.onnx", **{"weights/0.bin": b"w0", "weights/more/1.bin": b"w1"}))
    snapshot = house.start(f"{name}/1").scan()
    assert listed(snapshot, name) == {1: {"deep.onnx": b"m", "weights/0.bin": b"w0", "weights/more/1.bin": b"w1"}}
    assert snapshot.models[name].config == b'default_model_filename: "deep.onnx"\n'


def test_an_alias_that_is_gone_keeps_what_is_served_and_is_told(house: House, name: str):
    house.server.register(name, files(b"1"))
    house.server.alias(name, "champion", 1)
    source = house.start(name)
    before = source.scan()
    house.server.alias(name, "champion", None)
    after = source.scan()
    assert after.models == before.models
    assert "no alias champion" in reasons(after)


def test_a_model_that_is_not_there_is_its_own_problem(house: House, name: str):
    house.server.register(name, files(b"1"))
    snapshot = house.start(f"{name}/1", "nobody", f"{name}-too/7").scan()
    assert listed(snapshot, name) == {1: {"model.onnx": b"1"}}
    assert "RESOURCE_DOES_NOT_EXIST" in reasons(snapshot)


def test_other_flavours_are_refused_with_what_to_do(house: House, name: str):
    house.server.register(name, {"MLmodel": PICKLE_MLMODEL.encode(), "model.pkl": b"cos\nsystem\n"})
    snapshot = house.start(f"{name}/1").scan()
    assert snapshot.models[name].versions == {}
    assert "of flavour python_function, sklearn: convert it to ONNX" in reasons(snapshot)
    assert list((house.folder / "cache").rglob("model.pkl")) == []


def test_files_at_another_place_are_not_fetched(house: House, name: str):
    house.server.register(name, files(b"1"), source="s3://elsewhere/models")
    snapshot = house.start(f"{name}/1").scan()
    assert "its files are at s3: only what the server hands out is fetched" in reasons(snapshot)


def test_names_and_passwords_are_those_of_mlflows_own_variables(tmp_path: Path):
    variables = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "key-for-tests", "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth")}
    (tmp_path / "auth").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = admin\n"
        "admin_password = hunter2hunter2\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with mlflow_server(tmp_path, environment=variables, options=("--app-name", "basic-auth")) as server:
        server.headers["Authorization"] = "Basic YWRtaW46aHVudGVyMmh1bnRlcjI="
        server.register("fraud", files(b"1"))
        house = House(server, tmp_path)
        with pytest.raises(SourceUnavailable, match="401"):
            house.start("fraud/1").scan()
        environ = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "hunter2hunter2"}
        access = MlflowAccess.from_environment(environ)
        assert "hunter" not in repr(access)
        assert listed(house.start("fraud/1", access=access).scan(), "fraud") == {1: {"model.onnx": b"1"}}
        url = server.url.replace("http://", "http://admin:hunter2hunter2@")
        source = house.start("fraud/1", url=url)
        assert listed(source.scan(), "fraud") == {1: {"model.onnx": b"1"}}
        assert "hunter" not in source.place
        for each in house.sources:
            each.close()


class Odd(http.server.BaseHTTPRequestHandler):
    """Redirects, or answers with nonsense."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        if self.server.location:  # type: ignore[attr-defined]
            self.send_header("Location", self.server.location)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(self.server.body)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def odd_server(status: int = 200, body: bytes = b"{}", location: str = "") -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Odd) as server:
        server.status, server.body, server.location, server.asked = status, body, location, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def url_of(server: http.server.HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_redirect_to_another_host_is_not_followed():
    with odd_server() as other, odd_server(302, location=url_of(other)) as server:
        client = MlflowClient(url_of(server), MlflowAccess(token="secret"))
        with pytest.raises(SourceUnavailable, match="302"):
            client.by_alias("fraud", "champion")
        assert other.asked == []  # type: ignore[attr-defined]
        assert server.asked[0][1] == "Bearer secret"  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b"[" * 100_000, b"{}" + b" " * (5 << 20)])
def test_an_answer_that_is_none_is_a_source_that_is_of_no_use(body: bytes):
    with odd_server(body=body) as server, pytest.raises(SourceUnavailable, match="no JSON object"):
        MlflowClient(url_of(server)).by_alias("fraud", "champion")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("fraud", Reference("fraud", alias="champion")),
        ("fraud@prod-eu", Reference("fraud", alias="prod-eu")),
        ("fraud/3", Reference("fraud", version=3)),
        ("fraud/latest", Reference("fraud")),
        ("Fraud model", Reference("Fraud model", alias="champion")),
    ],
)
def test_references_are_read(text: str, reference: Reference):
    assert Reference.parse(text) == reference


@pytest.mark.parametrize("text", ["", "@champion", "fraud@", "fraud@a b", "fraud/0", "fraud/x", "a'b", "../x", "a/1@b"])
def test_nonsense_is_no_reference(text: str):
    with pytest.raises(InvalidPolicy):
        Reference.parse(text)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"flavors: 3", b"flavors: {onnx: {data: 7}}", b"a: &a [*a]", b"\xff", b"flavors: {onnx: 1}"]
)
def test_an_mlmodel_file_that_names_no_onnx_model_is_refused(text: bytes):
    with pytest.raises(UnsupportedFormat):
        onnx_file(text, "version 1")
