"""Signatures: each way of being wrong is refused, with a message of its own."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asrcompress.bundles.bundle import Bundle, read_bundle, sign_bundle
from asrcompress.bundles.signature import new_key, read_signature
from asrcompress.cli.app import app
from asrcompress.errors import BadSignature, MissingExtra, OutputExists
from asrcompress.runtime import Transcriber

pytest.importorskip("cryptography", reason="needs the [sign] extra")
Reseal = Callable[..., None]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ours.pem``, ``ours.pub``, ``theirs.pem`` and ``theirs.pub``."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        new_key(folder / f"{name}.pem")
    return folder


@pytest.fixture
def signed(golden_bundle: Bundle, keys: Path) -> Path:
    sign_bundle(golden_bundle.path, keys / "ours.pem")
    return golden_bundle.path


def test_signing_and_verifying_on_the_command_line(golden_bundle: Bundle, tmp_path: Path) -> None:
    key = tmp_path / "release.pem"
    done = run("sign", golden_bundle.path, "--key", key, "--new-key")
    assert done.exit_code == 0, done.stderr
    assert "release.pub" in done.stdout
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    done = run("verify", golden_bundle.path, "--public-key", tmp_path / "release.pub")
    assert done.exit_code == 0, done.stderr
    assert "right, by" in done.stdout
    assert "not checked" in run("verify", golden_bundle.path).stdout


def test_openssl_agrees(signed: Path, keys: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    signature = read_signature(signed / "bundle.sig")
    assert signature is not None
    (tmp_path / "raw").write_bytes(signature.value)
    done = subprocess.run(
        [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", str(keys / "ours.pub"), "-rawin",
         "-in", str(signed / "bundle.json"), "-sigfile", str(tmp_path / "raw")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "Success" in done.stdout, done.stderr


def test_the_transcriber_insists(signed: Path, keys: Path) -> None:
    Transcriber(signed, public_key=keys / "ours.pub")
    Transcriber(signed, public_key=str(keys / "ours.pub"))
    with pytest.raises(BadSignature, match="another key"):
        Transcriber(signed, public_key=keys / "theirs.pub")
    (signed / "bundle.sig").unlink()
    with pytest.raises(BadSignature, match="is not signed"):
        Transcriber(signed, public_key=keys / "ours.pub")
    Transcriber(signed)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def substitute(path: Path, position: int, digits: bytes = b"01") -> None:
    """Another digit of the same alphabet."""
    data = bytearray(path.read_bytes())
    data[position] = digits[1] if data[position] == digits[0] else digits[0]
    path.write_bytes(bytes(data))


def rename_checkpoint(bundle: Path, _: Reseal) -> None:
    path = bundle / "bundle.json"
    path.write_bytes(path.read_bytes().replace(b"tiny/best", b"tiny/rest"))


def forge(change: Callable[[Path], object]) -> Callable[[Path, Reseal], None]:
    """Change the folder and compute every digest anew."""

    def act(bundle: Path, reseal: Reseal) -> None:
        change(bundle)
        reseal(bundle)

    return act


def swap_tokens(bundle: Path) -> None:
    path = bundle / "tokens.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("开", "?").replace("关", "开").replace("?", "关"), encoding="utf-8"
    )


def downgrade(bundle: Path) -> None:
    import onnx

    model = onnx.load(bundle / "model.onnx")
    model.opset_import[0].version = 11
    onnx.save(model, str(bundle / "model.onnx"))


# What is done, what is said to who has no key, and what to who has.
CHANGED = "bundle.json or bundle.sig was changed after signing"
ATTACKS: dict[str, tuple[Callable[[Path, Reseal], object], str, str]] = {
    "a byte of the model": (
        lambda b, _: flip(b / "model.onnx", -9), "model.onnx: was changed, got sha256",
        "model.onnx: was changed, got sha256",
    ),
    "a byte of the tokens": (
        lambda b, _: flip(b / "tokens.txt", 1), "tokens.txt: was changed, got sha256",
        "tokens.txt: was changed, got sha256",
    ),
    "a byte of a recording": (
        lambda b, _: flip(b / "golden-2.wav", 999), "golden-2.wav: was changed, got sha256",
        "golden-2.wav: was changed, got sha256",
    ),
    "a byte of bundle.json": (
        rename_checkpoint, "bundle.json: was changed after it was written",
        CHANGED,
    ),
    "swapped tokens, digests right": (forge(swap_tokens), "gives the text", CHANGED),
    "downgraded opset, digests right": (
        forge(downgrade), "model.onnx: has opset 11, expected 17", CHANGED,
    ),
    "unknown schema, digests right": (
        lambda b, reseal: reseal(b, lambda tree: tree.update(schema_version=7)),
        "unknown schema_version, got 7", CHANGED,
    ),
    "a golden part that passes everything": (
        lambda b, reseal: reseal(b, lambda tree: tree["golden"].update(tolerance_nats=0.1)),
        "", CHANGED,
    ),
    "a promised CER": (
        lambda b, reseal: reseal(b, lambda tree: tree.update(quality={"cer_after": 0.0})),
        "", CHANGED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_own_message(
    signed: Path, keys: Path, reseal: Reseal, name: str
) -> None:
    attack, without_key, with_key = ATTACKS[name]
    attack(signed, reseal)
    done = run("verify", signed)
    if without_key:
        assert done.exit_code in (3, 4) and without_key in done.stderr
    else:  # what digests cannot see is what the signature is for
        assert done.exit_code == 0, done.stderr
    done = run("verify", signed, "--public-key", keys / "ours.pub")
    assert done.exit_code == 3 and with_key in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: (b / "bundle.sig").unlink(), "is not signed, expected a signature by"),
        (lambda b: substitute(b / "bundle.sig", 80, b"AB"), CHANGED),
        (lambda b: substitute(b / "bundle.sig", 8), "is signed by another key, got"),
        (lambda b: flip(b / "bundle.sig", 0), "is not in the form of a signature"),
        (lambda b: (b / "bundle.sig").write_bytes(b""), "is not in the form of a signature"),
        (lambda b: ((b / "bundle.sig").unlink(), (b / "bundle.sig").mkdir()), "is no plain file"),
        (
            lambda b: ((b / "bundle.sig").rename(b.parent / "s"),
                       (b / "bundle.sig").symlink_to(b.parent / "s")), "is no plain file",
        ),
    ],
    ids=["none", "a bit of it", "another signer", "a bit of its form", "empty", "folder", "link"],
)  # fmt: skip
def test_a_spoilt_signature_is_refused(
    signed: Path, keys: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(signed)
    done = run("verify", signed, "--public-key", keys / "ours.pub")
    assert done.exit_code == 3 and said in done.stderr


def test_every_byte_of_a_signature_counts(signed: Path, keys: Path) -> None:
    original = (signed / "bundle.sig").read_bytes()
    for position in range(0, len(original), 7):
        flip(signed / "bundle.sig", position)
        with pytest.raises(BadSignature):
            read_bundle(signed, public_key=keys / "ours.pub")
        (signed / "bundle.sig").write_bytes(original)


def test_keys_that_are_none(signed: Path, keys: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def pem(key: Any, encryption: Any) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))

    for name, data in {
        "garbage": b"garbage",
        "empty": b"",
        "encrypted": pem(
            ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"x")
        ),
        "curve": pem(ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()),
        "public": (keys / "ours.pub").read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(data)
        done = run("sign", signed, "--key", tmp_path / name, "--force")
        assert done.exit_code == 3 and "is no private Ed25519 key" in done.stderr, name
    done = run("verify", signed, "--public-key", keys / "ours.pem")
    assert done.exit_code == 3 and "is no public Ed25519 key" in done.stderr
    done = run("verify", signed, "--public-key", tmp_path / "nowhere")
    assert done.exit_code == 3 and "nowhere: cannot be read" in done.stderr
    assert run("verify", signed, "--public-key", keys / "ours.pub").exit_code == 0


def test_keys_and_signatures_are_not_overwritten(signed: Path, keys: Path) -> None:
    before = (keys / "ours.pem").read_bytes()
    with pytest.raises(OutputExists, match="never overwritten"):
        new_key(keys / "ours.pem")
    done = run("sign", signed, "--key", keys / "theirs.pem", "--new-key", "--force")
    assert done.exit_code == 3 and "never overwritten" in done.stderr
    assert (keys / "ours.pem").read_bytes() == before
    done = run("sign", signed, "--key", keys / "theirs.pem")
    assert done.exit_code == 3 and "bundle.sig" in done.stderr
    assert run("sign", signed, "--key", keys / "theirs.pem", "--force").exit_code == 0
    assert run("verify", signed, "--public-key", keys / "theirs.pub").exit_code == 0


def test_a_damaged_bundle_is_not_signed(golden_bundle: Bundle, keys: Path) -> None:
    flip(golden_bundle.path / "model.onnx", 50)
    done = run("sign", golden_bundle.path, "--key", keys / "ours.pem")
    assert done.exit_code == 3 and "model.onnx: was changed" in done.stderr
    assert not (golden_bundle.path / "bundle.sig").exists()


def test_signatures_are_the_same_each_time(signed: Path, keys: Path) -> None:
    before = (signed / "bundle.sig").read_bytes()
    sign_bundle(signed, keys / "ours.pem", force=True)
    assert (signed / "bundle.sig").read_bytes() == before


def test_without_cryptography_it_says_what_to_install(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtra) as caught:
        read_bundle(signed, public_key=keys / "ours.pub")
    assert caught.value.hint == "pip install 'asrcompress[sign]'"
    with pytest.raises(MissingExtra):
        sign_bundle(signed, keys / "ours.pem", force=True)
    read_bundle(signed)  # nobody asked for the signature
