"""Ed25519 signatures of bundles: who made it, where digests only say that it is whole.

``bundle.sig`` lies beside ``bundle.json`` and signs its very bytes, hence every file. Two lines:
the SHA-256 of the raw public key, so that a wrong key is told from a changed bundle, and the
signature in base64. Keys are PEM files as OpenSSL writes them. docs/bundle.md has the format.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import BadSignature, MissingExtra, OutputExists
from asrcompress.files import reading, write_atomically, writing

_LAYOUT = re.compile(rb"ed25519 ([0-9a-f]{64})\n([A-Za-z0-9+/]{86}==)\n")
_MOST_BYTES = 1 << 16  # of a key or signature; who gives a model by mistake is not to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What ``bundle.sig`` says.

    Attributes:
        signer: SHA-256 of the public key's 32 bytes, hexadecimal.
        value: 64 bytes.
    """

    signer: str
    value: bytes

    def to_bytes(self) -> bytes:
        """The file's content."""
        return b"ed25519 %s\n%s\n" % (self.signer.encode(), base64.b64encode(self.value))


def read_signature(path: Path) -> Signature | None:
    """The signature at `path`; None where there is no file.

    Raises:
        BadSignature: a link, or not in the form of a signature.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        raise BadSignature(f"{path}: is no plain file, expected a signature")
    found = _LAYOUT.fullmatch(_read(path))
    if not found:
        raise BadSignature(f"{path}: is not in the form of a signature", hint="get it again")
    try:
        value = base64.b64decode(found[2], validate=True)
    except binascii.Error as error:
        raise BadSignature(f"{path}: is not in the form of a signature, {error}") from error
    return Signature(signer=found[1].decode(), value=value)


def check_signature(
    content: bytes, signature: Signature | None, public_key: Path, *, item: str
) -> None:
    """Insist on `signature` being that of `content` by `public_key`.

    Raises:
        BadSignature: no signature, by another key, or of other bytes; or the key is none.
        MissingExtra: cryptography is not installed.
    """
    key = _public_key(public_key)
    if signature is None:
        raise BadSignature(
            f"{item}: is not signed, expected a signature by {public_key}",
            hint="asrcompress sign BUNDLE --key KEY.pem, by whoever vouches for it",
        )
    wanted = _signer(key)
    if signature.signer != wanted:
        raise BadSignature(
            f"{item}: is signed by another key, got {signature.signer[:16]}…, "
            f"expected {wanted[:16]}… ({public_key})"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature.value, content)
    except InvalidSignature as error:
        raise BadSignature(
            f"{item}: bundle.json or bundle.sig was changed after signing",
            hint="get the bundle again from whoever signed it",
        ) from error


def sign(content: bytes, private_key: Path) -> Signature:
    """The signature of `content`.

    Raises:
        BadSignature: `private_key` is no unencrypted Ed25519 key in PEM.
        MissingExtra: cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read(private_key), password=None)
    except _key_errors() as error:
        raise _no_key(private_key, "private") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _no_key(private_key, "private")
    return Signature(signer=_signer(key.public_key()), value=key.sign(content))


def new_key(private_key: Path) -> Path:
    """Make a key pair: `private_key`, readable by its owner only, and ``.pub`` beside it.

    Returns:
        path of the public key.
    Raises:
        OutputExists: one of the two is there; a key is never overwritten.
        MissingExtra: cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    public_key = private_key.with_suffix(".pub")
    for path in (private_key, public_key):
        if os.path.lexists(path):
            raise OutputExists(f"{path}: file exists, and a key is never overwritten")
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with writing(private_key):
        # Created with its final permissions: there is no moment at which others can read it.
        descriptor = os.open(private_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secret)
    write_atomically(
        public_key,
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    return public_key


def _public_key(path: Path) -> Any:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(_read(path))
    except _key_errors() as error:
        raise _no_key(path, "public") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _no_key(path, "public")
    return key


def _key_errors() -> tuple[type[Exception], ...]:
    """What cryptography raises for a key that it cannot take; TypeError is an encrypted one."""
    from cryptography.exceptions import UnsupportedAlgorithm

    return ValueError, TypeError, UnsupportedAlgorithm


def _no_key(path: Path, kind: str) -> BadSignature:
    return BadSignature(
        f"{path}: is no {kind} Ed25519 key, expected one in PEM, not encrypted",
        hint="asrcompress sign BUNDLE --key KEY.pem --new-key makes KEY.pem and KEY.pub",
    )


def _signer(public_key: Any) -> str:
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()


def _read(path: Path) -> bytes:
    with reading(path, BadSignature), open(path, "rb") as stream:
        return stream.read(_MOST_BYTES)


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra("cryptography", "sign") from error
    return serialization, ed25519
