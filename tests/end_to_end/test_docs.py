"""The pages of the documentation are run as they stand: what they say is what happens."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from doc_pages import blocks, page, reading, section
from live_gateway import ROOT
from mlflow_server import ENVIRONMENT, ONNX_MLMODEL, mlflow_server
from postgresql_server import postgresql_server
from s3_server import S3Server, s3_server

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first page trains."""
    folder = tmp_path_factory.mktemp("trained")
    with reading(folder) as reader:
        reader.read([block for block in page("publish.md") if block.kind == "python"])
    return folder


@pytest.fixture
def trained(tmp_path: Path, models: Path) -> Path:
    """A folder with what the other pages begin with."""
    for name in ("first.onnx", "second.onnx"):
        shutil.copy(models / name, tmp_path)
    return tmp_path


def places_of(s3: S3Server) -> dict[str, str]:
    return {"s3://models": s3.bucket_url(), "http://minio:9000": s3.endpoint}


AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


@pytest.mark.heavy
def test_publish_your_first_model(tmp_path: Path) -> None:
    with reading(tmp_path) as reader:
        reader.read(page("publish.md"))


def test_the_readme_on_the_registry(trained: Path) -> None:
    (trained / "first.onnx").rename(trained / "model.onnx")
    (trained / "second.onnx").rename(trained / "better.onnx")
    with reading(trained) as reader:
        reader.read(blocks(section((ROOT / "README.md").read_text(), "The registry")))


@pytest.mark.heavy
def test_the_page_to_look_things_up(trained: Path) -> None:
    with reading(trained) as reader:
        reader.read(page("registry.md"))


@pytest.mark.heavy
def test_governance(trained: Path) -> None:
    with reading(trained) as reader:
        reader.read(page("governance.md"))


@pytest.mark.heavy
def test_share_a_registry_between_gateways(trained: Path) -> None:
    with postgresql_server() as postgresql, s3_server() as s3:
        database = {"postgresql+psycopg://sluice@db.example.com/sluice": postgresql.database_url()}
        with reading(trained, places_of(s3) | database, AWS) as reader:
            reader.read(page("shared.md"))


@pytest.mark.heavy
def test_connect_a_bucket(trained: Path) -> None:
    with s3_server() as s3, reading(trained, places_of(s3), AWS) as reader:
        reader.read(page("bucket.md"))


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_connect_mlflow(trained: Path) -> None:
    home = trained / "mlflow"
    home.mkdir()
    with mlflow_server(home) as server:
        for name in ("first.onnx", "second.onnx"):
            mlmodel = ONNX_MLMODEL.format(data="model.onnx").encode()
            server.register("iris", {"MLmodel": mlmodel, "model.onnx": (trained / name).read_bytes()})
        places = {"https://mlflow.example.com": server.url}
        interpreter = str(ENVIRONMENT / "bin" / "python")
        with reading(trained, places, {"MLFLOW_RUN_ID": "0123456789abcdef"}, interpreter) as reader:
            reader.read(page("mlflow.md"))


PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        linked = (ROOT / "docs" / (target or name)).resolve()
        assert linked.is_file(), f"{name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
