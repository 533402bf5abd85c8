"""Signatures in the form of OpenSSF model signing: one detached Sigstore bundle over the digests of a version's files.

A signature is made and checked from the manifest: the files themselves were verified against it already, or will be
before anything reads them. Keys are elliptic curve keys in PEM; nothing here reaches for a network. Needs the extra
`signing`.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from registry.errors import InvalidSignature
from registry.manifest import CONFIG_FILENAME, Manifest

MAX_SIGNATURE_BYTES = 1 << 20
NOT_INSTALLED = "signatures need the extra `signing`: pip install 'sluice-gateway[signing]'"


def sign(manifest: Manifest, private_key: Path, *, password: str | None = None) -> str:
    """The signature of a version by a private key, as the text of a bundle.

    Raises:
        InvalidSignature: the key cannot be used, or the extra is not installed.
    """
    config = _signing().Config()
    try:
        config.use_elliptic_key_signer(private_key=private_key, password=password and password.encode())
        config.set_hashing_config(_Digests(manifest))
        with tempfile.TemporaryDirectory(prefix="sluice-sign-") as folder:
            target = Path(folder) / "model.sig"
            config.sign(Path(manifest.model), target)
            return target.read_text("utf-8")
    except Exception as error:
        # The library lets whatever its parts raise through; none of it says more than that the key is no good.
        raise InvalidSignature(f"the key {private_key.name} cannot sign: {type(error).__name__}") from error


def is_signed_by(manifest: Manifest, bundle: str, public_key: str) -> bool:
    """Whether a bundle is the signature of exactly this version's files by the key, which is in PEM.

    Raises:
        InvalidSignature: the extra is not installed.
    """
    if len(bundle) > MAX_SIGNATURE_BYTES:
        return False
    verifying = _verifying()
    with tempfile.TemporaryDirectory(prefix="sluice-verify-") as folder:
        key, signature = Path(folder) / "key.pem", Path(folder) / "model.sig"
        key.write_text(public_key, "utf-8")
        signature.write_text(bundle, "utf-8")
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key)
            config.set_hashing_config(_Digests(manifest)).verify(Path(manifest.model), signature)
        except Exception:
            # Bundles are strangers, and the library lets whatever its parsers raise through: none of it is a "yes".
            return False
    return True


def check_public_key(pem: str) -> str:
    """The key itself.

    Raises:
        InvalidSignature: not a public key that signatures can be checked with, or the extra is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-verify-") as folder:
        key = Path(folder) / "key.pem"
        key.write_text(pem, "utf-8")
        try:
            _verifying().Config().use_elliptic_key_verifier(public_key=key)
        except InvalidSignature:
            raise
        except Exception as error:
            raise InvalidSignature(f"not a public key of the curves P-256, P-384 or P-521 in PEM: {error}") from None
    return pem


class _Digests:
    """What the library asks for the digests of a folder; here they come from a manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def add_ignored_paths(self, **_ignored: object) -> None:
        """A signature may name files that it does not cover; nothing is left out for that."""

    def hash(self, _model_path: object, *, files_to_hash: object = None) -> Any:
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest

        files = {entry.path: bytes.fromhex(entry.sha256) for entry in self._manifest.files}
        if self._manifest.config_text is not None:
            files[CONFIG_FILENAME] = hashlib.sha256(self._manifest.config_text.encode()).digest()
        kind = manifest.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": False})
        items = [kind.new_item(path, Digest("sha256", files[path])) for path in sorted(files)]
        return manifest.Manifest(self._manifest.model, items, kind)


def _signing() -> Any:
    try:
        from model_signing import signing
    except ImportError:
        raise InvalidSignature(NOT_INSTALLED) from None
    return signing


def _verifying() -> Any:
    try:
        from model_signing import verifying
    except ImportError:
        raise InvalidSignature(NOT_INSTALLED) from None
    return verifying
