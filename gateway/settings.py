"""Every setting of the gateway: one frozen tree, each leaf with its default, meaning, unit and limits.

The tree does not know where values come from; `gateway.settings_sources` builds it once from a file, the environment
and flags, and `gateway.server` hands its parts down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

METADATA = "setting"
"""The key of a field's `Leaf` in its dataclass metadata."""


@dataclass(frozen=True)
class Leaf:
    """What a person needs to know about one setting beyond its type and default."""

    help: str
    unit: str = ""
    """`bytes` and `seconds` may be written with a suffix (`64 MiB`, `250ms`); anything else is only shown."""
    low: float | None = None
    high: float | None = None
    """The inclusive limits of a number."""


def leaf(default: Any, help: str, unit: str = "", *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field that documents itself."""
    return field(default=default, metadata={METADATA: Leaf(help, unit, low, high)})


def port(default: int, help: str) -> Any:
    return leaf(default, f"{help}; 0 lets the system choose", low=0, high=65535)


def seconds(default: float, help: str, *, low: float = 0.0, high: float = 86400.0) -> Any:
    return leaf(default, help, "seconds", low=low, high=high)


def size(default: int, help: str, *, low: int = 1, high: int = 64 * GIB) -> Any:
    return leaf(default, help, "bytes", low=low, high=high)


def count(default: int, help: str, *, low: int = 1, high: int = 2**31 - 1) -> Any:
    return leaf(default, help, low=low, high=high)


@dataclass(frozen=True)
class HttpSettings:
    """HTTP/1.1 inference: what one connection may ask for."""

    max_connections: int = count(32768, "open connections; more are closed at once")
    max_header_bytes: int = size(16 * KIB, "request line and headers together", high=MIB)
    max_headers: int = count(100, "header fields of one request", high=256)
    max_target_bytes: int = size(8 * KIB, "the request target: path and query", high=MIB)
    max_body_bytes: int = size(64 * MIB, "one request body, also after decompression", high=2 * GIB)
    max_inflate_ratio: int = count(100, "how many times larger decompression may make a body")
    max_chunks: int = count(65536, "chunks of one chunked body")
    max_pipelined: int = count(64, "requests that one connection may have in flight", high=65536)
    max_unread_bytes: int = size(64 * MIB, "answers waiting for earlier ones before no more requests are taken")
    header_timeout_seconds: float = seconds(5.0, "from the first byte of a request to the end of its headers")
    body_timeout_seconds: float = seconds(30.0, "without a byte of an unfinished body")
    idle_timeout_seconds: float = seconds(75.0, "an idle connection is kept open")
    linger_timeout_seconds: float = seconds(2.0, "from the last answer to the client's end of a closing connection")
    compression_min_bytes: int = size(KIB, "smallest answer that is compressed for a client that accepts it", low=0)
    compression_max_bytes: int = size(8 * MIB, "largest answer that is compressed: it takes the loop's time", low=0)


@dataclass(frozen=True)
class GrpcSettings:
    """gRPC inference: HTTP/2 connections and what arrives on them."""

    max_connections: int = count(32768, "open connections; more are closed at once")
    max_message_bytes: int = size(64 * MIB, "one message, also after decompression", high=2 * GIB)
    max_buffered_bytes: int = size(256 * MIB, "unfinished messages of one connection together")
    max_inflate_ratio: int = count(100, "how many times larger decompression may make a message")
    max_concurrent_streams: int = count(1024, "streams open at once on one connection", high=1_000_000)
    max_header_bytes: int = size(16 * KIB, "request headers after HPACK", high=MIB)
    max_resets_per_minute: int = count(6000, "young streams that a client may reset before it is told to go away")
    max_control_frames_per_minute: int = count(10_000, "frames that do no work before the client is told to go away")
    max_continuations: int = count(8, "CONTINUATION frames of one block of headers", low=0)
    max_settings: int = count(32, "entries of one SETTINGS frame")
    max_outbound_acks: int = count(1000, "acknowledgements that wait for a client that does not read")
    header_timeout_seconds: float = seconds(5.0, "for the connection preface, and for each block of headers")
    body_timeout_seconds: float = seconds(30.0, "for a message to arrive, and what `min_body_rate_bytes` adds")
    min_body_rate_bytes: int = size(16 * KIB, "for so many bytes that have come, a message gets a second more")
    max_unread_bytes: int = size(256 * MIB, "answers that wait for the client to read them before calls are refused")
    write_timeout_seconds: float = seconds(60.0, "without progress of an answer that the client does not read")
    idle_timeout_seconds: float = seconds(600.0, "a connection without streams is kept open")
    keepalive_time_seconds: float = seconds(7200.0, "of silence before the gateway sends a ping")
    keepalive_timeout_seconds: float = seconds(20.0, "the answer to that ping may take")
    min_ping_interval_seconds: float = seconds(5.0, "between a client's pings while no data moves")
    max_ping_strikes: int = count(2, "pings that come too soon before the client is told to go away", low=0)
    stream_window_bytes: int = size(MIB, "flow-control window of one stream", low=65535, high=2 * GIB - 1)
    connection_window_bytes: int = size(8 * MIB, "flow-control window of one connection", low=65535, high=2 * GIB - 1)
    compression_min_bytes: int = size(KIB, "smallest answer that is compressed for a client that accepts it", low=0)


@dataclass(frozen=True)
class TlsSettings:
    """TLS for both inference ports; off while no certificate is given."""

    certificate_file: Path | None = leaf(None, "PEM file with the certificate chain")
    private_key_file: Path | None = leaf(None, "PEM file with its private key")
    client_ca_file: Path | None = leaf(None, "PEM file with the authorities that may vouch for clients")
    require_client_certificate: bool = leaf(False, "refuse clients without a certificate (mutual TLS)")

    @property
    def is_enabled(self) -> bool:
        return self.certificate_file is not None


@dataclass(frozen=True)
class AdminSettings:
    """The admin plane: metrics, probes, JSON API, console."""

    host: str = leaf("127.0.0.1", "address to bind; other than loopback only when there are tokens")
    token_file: Path | None = leaf(None, "file with one bearer token a line, any of which opens the admin API")
    allowed_hosts: tuple[str, ...] = leaf((), "names by which browsers may reach the admin plane besides localhost")
    public_metrics: bool = leaf(False, "answer `/metrics` without a token")


@dataclass(frozen=True)
class ModelsSettings:
    """Which models are loaded, and when the repository is looked at."""

    control_mode: Literal["none", "poll", "explicit"] = leaf(
        "poll", "`none` loads once at the start, `poll` follows the repository, `explicit` obeys load and unload calls"
    )
    load_on_start: tuple[str, ...] = leaf((), "models to load at the start in explicit mode; `*` loads all")
    strict_readiness: bool = leaf(
        False, "not ready while any model has no version that answers, also one that never had"
    )
    poll_seconds: float = seconds(1.0, "between two looks at the repository", low=0.05)
    load_parallelism: int = count(2, "versions that load at the same time", high=64)
    memory_bytes: int = size(
        0, "for all models together; idle ones that are loaded on demand leave when it is needed; 0 sets no limit",
        low=0, high=1 << 50,
    )  # fmt: skip
    max_waiting_requests: int = count(1024, "requests that wait for their model to be loaded on demand")
    max_waiting_bytes: int = size(64 * MIB, "of the requests that wait so")
    default_max_batch_size: int = count(128, "max_batch_size of a model with a free first dimension and no such entry")


@dataclass(frozen=True)
class RegistrySettings:
    """Where versions come from, other than a model repository directory, and how they are brought here."""

    source: Literal["catalog", "mlflow", "objects"] = leaf(
        "catalog", "what is served without `model_repository`: the Sluice catalog, an MLflow registry, a bucket"
    )
    database_url: str = leaf("", "the catalog: `postgresql+psycopg://...`; SQLite in `data_dir` when empty")
    database_password_file: Path | None = leaf(None, "file with the password for `database_url`")
    artifacts_url: str = leaf("", "the files of the catalog: s3://, gs://, az://; a folder in `data_dir` when empty")
    artifacts_options: tuple[str, ...] = leaf((), "`name=value` for that store, such as endpoint=http://minio:9000")
    poll_seconds: float = seconds(0.5, "between two looks at the catalog", low=0.05)
    remote_poll_seconds: float = seconds(2.0, "between two looks at MLflow or a bucket", low=0.05)
    cache_bytes: int = size(64 * GIB, "the cache of pulled versions in `data_dir`", high=1024 * GIB)
    max_version_bytes: int = size(32 * GIB, "all files of one version together", high=1024 * GIB)
    max_files: int = count(4096, "files of one version", high=4096)
    pull_parallelism: int = count(4, "files that are fetched at the same time", high=64)
    pull_bytes_per_second: int = size(0, "for all fetches together; 0 sets no limit", low=0)
    mlflow_url: str = leaf("", "the MLflow tracking server, such as https://mlflow.example.com")
    mlflow_models: tuple[str, ...] = leaf((), "`name@alias`, `name/3`, `name/latest`, or `name` for its alias champion")
    mlflow_webhook_secret_file: Path | None = leaf(
        None, "file with the secret of MLflow's webhooks, each of which then has MLflow looked at at once"
    )
    objects_url: str = leaf("", "a model repository in a bucket: s3://bucket/prefix, gs://, az://")
    objects_options: tuple[str, ...] = leaf((), "`name=value` for that bucket, such as endpoint=http://minio:9000")


@dataclass(frozen=True)
class RolloutsSettings:
    """Moving traffic from one version to another, where the catalog is served."""

    poll_seconds: float = seconds(0.5, "between two looks at the rollouts of the catalog", low=0.05, high=2.0)
    lease_seconds: float = seconds(5.0, "a gateway that leads a rollout may be away before another leads", low=0.5)
    prometheus_url: str = leaf("", "the server that `analysis` steps and `metrics` guards ask, such as http://prom:9090")
    webhook_url: str = leaf("", "where every change of a rollout is posted")
    webhook_secret_file: Path | None = leaf(None, "file with the `whsec_` secret that signs what is posted")


@dataclass(frozen=True)
class RequestsSettings:
    """What one inference request may declare, checked before anything is allocated for it."""

    max_in_flight: int = count(65536, "requests between admission and answer; one more is refused", high=10_000_000)
    max_tensors: int = count(64, "input tensors, and requested outputs", high=64)
    max_json_depth: int = count(32, "nesting of a JSON body", high=1024)
    max_tensor_bytes: int = size(GIB, "the product of a shape times the element size")


@dataclass(frozen=True)
class BatchingSettings:
    """Limits on what waits, for each served version."""

    max_queue_rows: int = count(65536, "rows that may wait")
    max_queue_bytes: int = size(256 * MIB, "input bytes that may wait")
    max_queue_seconds: float = seconds(10.0, "of predicted wait; a request that would wait longer is refused at once")


@dataclass(frozen=True)
class WorkersSettings:
    """Worker processes: one for each model instance."""

    batch_timeout_seconds: float = seconds(60.0, "one batch may run before its worker is killed as hung", low=0.01)
    start_timeout_seconds: float = seconds(120.0, "a worker may take to load and warm up its model", low=0.1)
    stop_timeout_seconds: float = seconds(5.0, "a worker may take to stop before it is killed")
    restart_backoff_initial_seconds: float = seconds(0.1, "before the first restart of a dead worker")
    restart_backoff_max_seconds: float = seconds(30.0, "the longest pause between restarts")
    max_restarts_in_window: int = count(5, "deaths within `restart_window_seconds` that make a version UNAVAILABLE")
    restart_window_seconds: float = seconds(60.0, "that deaths are counted over")
    slot_bytes: int = size(256 * MIB, "the largest shared-memory slot, of which a worker has two", low=4 * KIB)
    nice: int = count(0, "added to a worker's niceness", low=0, high=19)
    address_space_bytes: int = size(0, "limit on a worker's address space; 0 sets none", low=0, high=2**47)


@dataclass(frozen=True)
class DrainSettings:
    """What SIGTERM starts."""

    delay_seconds: float = seconds(0.0, "between not ready and closing the listeners, for balancers to notice")
    timeout_seconds: float = seconds(30.0, "for all of draining: `delay_seconds`, then requests in flight")


@dataclass(frozen=True)
class LogSettings:
    """Logs on standard error."""

    format: Literal["auto", "json", "text"] = leaf("auto", "`auto` is text on a terminal, else JSON lines")
    level: Literal["debug", "info", "warning", "error"] = leaf("info", "the least severe level that is written")


@dataclass(frozen=True)
class Settings:
    """The whole tree."""

    host: str = leaf("127.0.0.1", "address that both inference ports bind")
    http_port: int = port(8000, "HTTP inference")
    grpc_port: int = port(8001, "gRPC inference")
    admin_port: int = port(8002, "the admin plane")
    model_repository: Path | None = leaf(
        None, "folder of `<model>/<version>/model.onnx`; without one, `registry.source` is served"
    )
    data_dir: Path = leaf(Path("~/.sluice"), "folder for everything the gateway keeps")
    http: HttpSettings = field(default_factory=HttpSettings)
    grpc: GrpcSettings = field(default_factory=GrpcSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    models: ModelsSettings = field(default_factory=ModelsSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    rollouts: RolloutsSettings = field(default_factory=RolloutsSettings)
    requests: RequestsSettings = field(default_factory=RequestsSettings)
    batching: BatchingSettings = field(default_factory=BatchingSettings)
    workers: WorkersSettings = field(default_factory=WorkersSettings)
    drain: DrainSettings = field(default_factory=DrainSettings)
    logs: LogSettings = field(default_factory=LogSettings)
