"""Triton's load generator, a C++ client of both protocols. Its last public binary is inside an older wheel of
tritonclient; two libraries that it wants come from elsewhere."""

import csv
import os
import sys
import zipfile
from pathlib import Path

import pytest
from interop_install import CACHE, install, run
from live_gateway import Gateway

FOLDER = CACHE / "perf_analyzer"
WHEELS = ("tritonclient==2.48.0", "nvidia-cuda-runtime-cu12==12.9.79")


@pytest.fixture(scope="module")
def perf_analyzer() -> Path:
    """The binary, with its libraries beside it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER)]
    install(
        FOLDER / "downloaded",
        *([*download, wheel] for wheel in WHEELS),
        ["apt-get", "download", "libb64-0d"],
        ["sh", "-c", "dpkg-deb -x libb64-0d_*.deb ."],
        ["sh", "-c", "cp usr/lib/*/libb64.so* ."],
    )
    binary = FOLDER / "perf_analyzer"
    if not binary.exists():
        for wheel, member in (("tritonclient", "/bin/perf_analyzer"), ("nvidia_cuda_runtime", "/libcudart.so.12")):
            with zipfile.ZipFile(next(FOLDER.glob(f"{wheel}*.whl"))) as archive:
                (name,) = (each for each in archive.namelist() if each.endswith(member))
                (FOLDER / Path(name).name).write_bytes(archive.read(name))
        binary.chmod(0o755)
    return binary


@pytest.mark.timeout(700)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("mode", ["sync", "async", "streaming"])
def test_perf_analyzer_measures(
    gateway: Gateway, perf_analyzer: Path, tmp_path: Path, protocol: str, mode: str
) -> None:
    if (protocol, mode) == ("http", "streaming"):
        pytest.skip("HTTP has no streams")
    report = tmp_path / "report.csv"
    url = gateway.http_url if protocol == "http" else gateway.grpc_url
    said = run(
        [
            perf_analyzer, "-m", "tabular", "-i", protocol, "-u", url, f"--{mode}", "--concurrency-range", "4",
            "--measurement-mode", "count_windows", "--measurement-request-count", "50", "--max-trials", "3",
            "--stability-percentage", "99999", "-f", report,
        ],
        os.environ | {"LD_LIBRARY_PATH": str(FOLDER)},
    )  # fmt: skip
    assert "throughput" in said
    (row,) = csv.DictReader(report.read_text().splitlines())
    assert float(row["Inferences/Second"]) > 0
    # These come from the gateway's statistics, which it reads at both ends of its window.
    assert float(row["Server Compute Infer"]) >= 0
    assert float(row["Server Queue"]) >= 0
