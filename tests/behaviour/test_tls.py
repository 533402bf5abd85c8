"""TLS and mutual TLS on both inference ports."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import models
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from live_gateway import Gateway, StartGateway

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@dataclass(frozen=True)
class Papers:
    """PEM files: an authority, and what it vouches for."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *new[:-2], "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return Papers(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))


@pytest.fixture(scope="module", params=["tls", "mutual"])
def secured(request: pytest.FixtureRequest, start_module_gateway: StartGateway, papers: Papers) -> Gateway:
    settings: dict[str, Any] = {"tls.certificate_file": papers.server, "tls.private_key_file": papers.server_key}
    if request.param == "mutual":
        settings |= {"tls.client_ca_file": papers.authority, "tls.require_client_certificate": "true"}
    gateway = start_module_gateway({"free": {1: models.identity("FP32", ("N", "M"))}}, settings=settings, wait=False)
    gateway.context = client_context(papers)
    gateway.wait_ready()
    return gateway


def client_context(papers: Papers, *, with_certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(papers.authority))
    if with_certificate:
        context.load_cert_chain(papers.client, papers.client_key)
    return context


X = np.arange(200_000, dtype=np.float32).reshape(1, -1)


def answer_of(module: Any, client: Any) -> Any:
    tensor = module.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    return client.infer("free", [tensor]).as_numpy("y")


def test_http_answers_over_tls(secured: Gateway, papers: Papers) -> None:
    client = triton_http.InferenceServerClient(
        secured.http_url, ssl=True, ssl_context_factory=lambda: client_context(papers)
    )
    for _ in range(3):
        np.testing.assert_array_equal(answer_of(triton_http, client), X)
    client.close()


def test_grpc_answers_over_tls(secured: Gateway, papers: Papers) -> None:
    client = triton_grpc.InferenceServerClient(
        secured.grpc_url,
        ssl=True,
        root_certificates=str(papers.authority),
        private_key=str(papers.client_key),
        certificate_chain=str(papers.client),
    )
    for _ in range(3):
        np.testing.assert_array_equal(answer_of(triton_grpc, client), X)
    client.close()


@pytest.mark.parametrize(("port", "protocol"), [("http_port", "http/1.1"), ("grpc_port", "h2")])
def test_each_port_chooses_its_protocol(secured: Gateway, papers: Papers, port: str, protocol: str) -> None:
    context = client_context(papers)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((secured.host, getattr(secured, port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == protocol


@pytest.mark.parametrize("secured", ["mutual"], indirect=True)
def test_a_stranger_is_refused(secured: Gateway, papers: Papers) -> None:
    context = client_context(papers, with_certificate=False)
    with socket.create_connection((secured.host, secured.http_port), timeout=10) as raw, pytest.raises(OSError):  # noqa: PT012
        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            secure.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            if not secure.recv(100):
                raise ConnectionError("closed")
    credentials = grpc.ssl_channel_credentials(papers.authority.read_bytes())
    with grpc.secure_channel(secured.grpc_url, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_plain_text_is_not_understood(secured: Gateway) -> None:
    with socket.create_connection((secured.host, secured.http_port), timeout=10) as raw:
        raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert not raw.recv(1000).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            pass


def test_handshakes_that_fail_do_not_use_up_the_connections(start_gateway: StartGateway, papers: Papers) -> None:
    settings = {
        "tls.certificate_file": papers.server,
        "tls.private_key_file": papers.server_key,
        "http.max_connections": 4,
    }
    gateway = start_gateway({"free": {1: models.identity()}}, settings=settings, wait=False)
    gateway.context = client_context(papers)
    gateway.wait_ready()
    for _ in range(20):
        with socket.create_connection((gateway.host, gateway.http_port), timeout=10) as raw:
            raw.sendall(b"this is no handshake")
            raw.recv(1)
    assert gateway.is_ready()
    assert gateway.stop() == 0


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_command_line_speaks_tls_over_both_transports(secured: Gateway, papers: Papers, transport: str) -> None:
    def infer(*files: str, scheme: str = "") -> subprocess.CompletedProcess[str]:
        port = secured.grpc_port if transport == "grpc" else secured.http_port
        command = [sys.executable, "-m", "gateway", "infer", "free", "--input", "[[1.5, 2.5]]", "--json", *files]
        command += ["--url", f"{scheme}localhost:{port}", *(["--grpc"] if transport == "grpc" else [])]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    authority = ("--ca-file", str(papers.authority))
    client = ("--certificate-file", str(papers.client), "--private-key-file", str(papers.client_key))
    for scheme in ("", "https://"):
        done = infer(*authority, *client, scheme=scheme)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outputs"][0]["data"] == [[1.5, 2.5]]
    stranger = infer(scheme="https://")
    assert stranger.returncode == 7
    assert "--ca-file" in stranger.stderr
    assert stranger.stderr.count("\n") == 2, "one error and one hint"
    assert infer(*authority, "--certificate-file", str(papers.client)).returncode == 2
    assert infer("--ca-file", str(papers.server_key)).returncode == 2
    assert infer(*authority, scheme=f"{transport}://").returncode == 2
