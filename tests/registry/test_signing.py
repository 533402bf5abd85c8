from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from manifests import manifest

from registry.artifacts import LocalArtifacts
from registry.catalog import Catalog
from registry.errors import InvalidSignature
from registry.manifest import FileEntry, Manifest
from registry.policies import ApprovalPolicy, may_serve
from registry.publish import push
from registry.signing import check_public_key, is_signed_by, sign

Keys = tuple[Path, str]


def write_key(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Keys:
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    return lambda name: write_key(tmp_path, name, ec.generate_private_key(ec.SECP256R1()))


def test_a_signature_is_good_for_its_files_and_its_key_only(keys: Callable[[str], Keys]) -> None:
    (private, public), (_, other) = keys("ada"), keys("bob")
    signed = manifest("weights", config_text="max_batch_size: 8")
    bundle = sign(signed, private)
    assert is_signed_by(signed, bundle, public)
    assert not is_signed_by(signed, bundle, other)
    assert is_signed_by(manifest("weights", config_text="max_batch_size: 8", tags={"a": "b"}), bundle, public)
    more = Manifest("fraud", (*signed.files, FileEntry("extra.txt", "0" * 64, 1)), config_text=signed.config_text)
    for changed in (manifest("weightz", config_text="max_batch_size: 8"), manifest("weights"), more):
        assert not is_signed_by(changed, bundle, public)


@pytest.mark.parametrize("bundle", ["", "{}", "[]", "nonsense", "\0", '{"mediaType": "x"}', "x" * (2 << 20)])
def test_what_is_no_signature_is_no_yes(keys: Callable[[str], Keys], bundle: str) -> None:
    assert not is_signed_by(manifest(), bundle, keys("ada")[1])


def test_a_signature_that_was_tampered_with_is_no_yes(keys: Callable[[str], Keys]) -> None:
    private, public = keys("ada")
    bundle = json.loads(sign(manifest("good"), private))
    other = json.loads(sign(manifest("bad"), private))
    mixed = bundle | {"dsseEnvelope": bundle["dsseEnvelope"] | {"payload": other["dsseEnvelope"]["payload"]}}
    assert not is_signed_by(manifest("bad"), json.dumps(mixed), public)
    assert not is_signed_by(manifest("good"), json.dumps(mixed), public)


def test_a_key_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    _, weak = write_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    for pem in ("", "nonsense", weak):
        with pytest.raises(InvalidSignature):
            check_public_key(pem)
    (tmp_path / "none.pem").write_text("nonsense")
    for path in (tmp_path / "none.pem", tmp_path / "absent.pem", tmp_path / "rsa.pem"):
        with pytest.raises(InvalidSignature):
            sign(manifest(), path)


@pytest.fixture
def published(tmp_path: Path, keys: Callable[[str], Keys]) -> tuple[Manifest, str, str, Path]:
    """A version that was pushed with a signature, its folder as a consumer would have it, and the public key."""
    private, public = keys("ada")
    path = models.external(tmp_path / "model" / "model.onnx", "weights/all.bin")
    (tmp_path / "model" / "config.pbtxt").write_text("max_batch_size: 8\n")
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    store = LocalArtifacts(tmp_path / "artifacts")
    row = push(catalog, store, path.parent, "fraud", actor="ada", sign_key=private).row
    policy = ApprovalPolicy(signed_by=(public,))
    assert may_serve(row, policy, is_signed_by) == []
    assert may_serve(row, ApprovalPolicy(signed_by=(keys("bob")[1],)), is_signed_by) == ["no signature by a known key"]
    catalog.close()
    return row.manifest, row.signatures[0], public, path.parent


def model_signing(*arguments: str | Path) -> int:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_the_tools_of_model_signing_accept_our_signature(
    published: tuple[Manifest, str, str, Path], tmp_path: Path
) -> None:
    _, bundle, public, folder = published
    (tmp_path / "model.sig").write_text(bundle)
    (tmp_path / "public.pem").write_text(public)
    verify = ("verify", "key", folder, "--signature", tmp_path / "model.sig", "--public_key", tmp_path / "public.pem")
    assert model_signing(*verify) == 0
    (folder / "weights" / "all.bin").write_bytes(b"other")
    assert model_signing(*verify) != 0


def test_we_accept_the_signature_of_the_tools_of_model_signing(
    published: tuple[Manifest, str, str, Path], tmp_path: Path
) -> None:
    value, _, public, folder = published
    private = tmp_path / "ada.pem"
    target = tmp_path / "theirs.sig"
    assert model_signing("sign", "key", folder, "--signature", target, "--private_key", private) == 0
    assert is_signed_by(value, target.read_text(), public)
    assert not is_signed_by(manifest("other"), target.read_text(), public)
