"""A bundle is read only if every byte is as it was written, and says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asrcompress.bundles import bundle as bundle_module
from asrcompress.bundles.bundle import Bundle, BundleManifest, read_bundle, write_bundle
from asrcompress.errors import BadBundle, FileFailed, OutputExists
from asrcompress.features import FeatureSpec
from asrcompress.tokens import Vocabulary

MakeBundle = Callable[..., Bundle]
FILES = ("bundle.json", "model.onnx", "tokens.txt")
SHELL_CHECK = (
    r"""sed -E 's/("bundle_sha256": ")[0-9a-f]{64}/\1'"$(printf '0%.0s' $(seq 64))"'/' """
    "bundle.json | sha256sum"
)


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle()


def reseal(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit bundle.json and make all its digests right again, as its specification says."""
    path = folder / "bundle.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    for name, record in tree["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            record.update(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    edit(tree)
    tree["bundle_sha256"] = "0" * 64
    unsealed = json.dumps(tree)
    digest = hashlib.sha256(unsealed.encode()).hexdigest()
    path.write_text(unsealed.replace("0" * 64, digest), encoding="utf-8")


def refused(folder: Path, message: str) -> BadBundle:
    with pytest.raises(BadBundle, match=message) as caught:
        read_bundle(folder)
    return caught.value


def test_what_is_written_is_read(bundle: Bundle, vocabulary: Vocabulary) -> None:
    read = read_bundle(bundle.path)
    assert read == bundle
    assert read.tokens == vocabulary
    assert read.model_path.name == "model.onnx"
    assert sorted(read.manifest.files) == ["model.onnx", "tokens.txt"]
    assert read.manifest.features.cmvn_mean == (10.0,) * 80
    assert read.manifest.quality == {"cer_before": 0.1, "cer_after": 0.125}
    assert sorted(p.name for p in bundle.path.iterdir()) == sorted(FILES)
    assert read.size_bytes == sum(p.stat().st_size for p in bundle.path.iterdir())


def test_the_same_parts_make_the_same_bytes(make_bundle: MakeBundle) -> None:
    one, two = make_bundle("one"), make_bundle("two")
    for name in FILES:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_a_resealed_bundle_is_read(bundle: Bundle) -> None:
    """The tests below rely on `reseal`; it is also an independent writer of the format."""
    reseal(bundle.path, lambda tree: tree.update(family="other"))
    assert read_bundle(bundle.path).manifest.family == "other"


def test_the_seal_can_be_checked_with_a_shell(bundle: Bundle) -> None:
    """The very command of docs/bundle.md."""
    done = subprocess.run(
        ["bash", "-c", SHELL_CHECK], cwd=bundle.path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == bundle.manifest.bundle_sha256


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.31, 0.77, 1.0])
def test_a_flipped_bit_is_found_in_every_file(bundle: Bundle, name: str, place: float) -> None:
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    refused(bundle.path, rf"{name}: (was changed|is not JSON|unknown schema|has 0 digests)")


def test_no_byte_of_the_manifest_is_left_uncovered(bundle: Bundle) -> None:
    path = bundle.path / "bundle.json"
    original = path.read_bytes()
    for place in range(0, len(original), 17):  # every byte takes 16 s, and was found
        path.write_bytes(original[:place] + bytes([original[place] ^ 4]) + original[place + 1 :])
        with pytest.raises(BadBundle):
            read_bundle(bundle.path, verify=False)


def test_swapped_tokens_are_found(bundle: Bundle) -> None:
    path = bundle.path / "tokens.txt"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("开 2\n关 3", "关 2\n开 3"), encoding="utf-8")
    error = refused(bundle.path, r"tokens\.txt: was changed, got sha256 [0-9a-f]{64}, expected")
    assert "export it again" in error.hint


def test_another_size_is_found_without_hashing(bundle: Bundle) -> None:
    with (bundle.path / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BadBundle, match=r"model\.onnx: was changed, got \d+ bytes, expected"):
        read_bundle(bundle.path, verify=False)


@pytest.mark.parametrize("name", ["model.onnx", "tokens.txt"])
def test_a_missing_file(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    refused(bundle.path, f"is missing {name}$")


def test_no_folder_and_no_manifest(bundle: Bundle, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such folder")
    refused(bundle.path / "model.onnx", "no such folder")
    (bundle.path / "bundle.json").unlink()
    assert "export" in refused(bundle.path, r"has no bundle\.json").hint


@pytest.mark.parametrize("name", ["evil.so", ".hidden", "model.onnx.bak"])
def test_a_foreign_file(bundle: Bundle, name: str) -> None:
    (bundle.path / name).write_text("x")
    assert "remove it" in refused(bundle.path, f"does not belong to the bundle, got {name}$").hint


def test_a_folder_and_a_pipe_are_no_files(bundle: Bundle) -> None:
    (bundle.path / "sub").mkdir()
    refused(bundle.path, "sub: is no plain file")
    (bundle.path / "sub").rmdir()
    (bundle.path / "tokens.txt").unlink()
    os.mkfifo(bundle.path / "tokens.txt")  # reading it would never end
    refused(bundle.path, r"tokens\.txt: is no plain file")


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_even_to_the_right_bytes(bundle: Bundle, tmp_path: Path, name: str) -> None:
    shutil.move(bundle.path / name, tmp_path / "elsewhere")
    (bundle.path / name).symlink_to(tmp_path / "elsewhere")
    refused(bundle.path, rf"{name}: is a symbolic link, expected a file")


@pytest.mark.parametrize(
    "name", ["../tokens.txt", "/etc/passwd", "a/b", "..", "a\\b", "C:x", "", ".x", "bundle.json"]
)
@pytest.mark.parametrize("key", ["model", "tokens", "files"])
def test_a_name_that_leads_out(bundle: Bundle, key: str, name: str) -> None:
    def edit(tree: dict[str, Any]) -> None:
        if key == "files":
            tree["files"][name] = {"sha256": "0" * 63 + "1", "size_bytes": 1}
        else:
            tree[key] = name

    reseal(bundle.path, edit)
    refused(bundle.path, "file name is not allowed, got .*expected letters, digits")


@pytest.mark.parametrize("version", [0, 3, "1", None, True])
def test_an_unknown_schema_before_anything_else(bundle: Bundle, version: object) -> None:
    text = json.dumps({"schema_version": version, "what": "later releases know"})
    (bundle.path / "bundle.json").write_text(text)
    error = refused(bundle.path, "unknown schema_version, got .*, expected 1 or 2")
    assert "release of asrcompress" in error.hint


def test_an_edited_manifest(bundle: Bundle) -> None:
    path = bundle.path / "bundle.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"cer_after": 0.125', '"cer_after": 0.025'), encoding="utf-8")
    refused(bundle.path, r"bundle\.json: was changed after it was written")


def test_a_reformatted_manifest(bundle: Bundle) -> None:
    path = bundle.path / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    refused(bundle.path, r"bundle\.json: was changed after it was written")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_manifest(bundle: Bundle, share: float) -> None:
    path = bundle.path / "bundle.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(bundle.path, r"bundle\.json: is not JSON")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 1, "schema_version": 1}', "key schema_version stands twice"),
        ('{"schema_version": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "unknown schema_version"),
        ('{"schema_version": 1}', "has 0 digests of its own"),
        ("\udcff", "is not JSON"),
    ],
)
def test_json_that_is_no_manifest(bundle: Bundle, text: str, message: str) -> None:
    (bundle.path / "bundle.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(bundle.path, message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_frames", "500", 'max_frames: got "500", expected int'),
        ("max_frames", True, "max_frames: got true, expected int"),
        ("precision", "int4", "precision is not allowed, got int4, expected int8 or fp32"),
        ("blank_id", 7, "blank_id is not allowed, got 7, expected 0 to 6"),
        ("min_frames", 501, "min_frames is not allowed"),
        ("subsampling_factor", 0, "subsampling_factor is not allowed"),
        ("integer_share", 1.5, "integer_share is not allowed"),
        ("inputs", [], "inputs is not allowed"),
        ("tools", {"onnx": 1}, "tools.onnx: got 1, expected str"),
        ("source", {"checkpoint_name": "x"}, "source: key checkpoint_sha256 is missing"),
        ("surprise", 1, "unknown key surprise"),
    ],
)
def test_a_wrong_value_is_named(bundle: Bundle, key: str, value: object, message: str) -> None:
    reseal(bundle.path, lambda tree: tree.update({key: value}))
    refused(bundle.path, message)


def test_a_wrong_feature_setting_is_named(bundle: Bundle) -> None:
    reseal(bundle.path, lambda tree: tree["features"].update(cmvn_mean=[1.0]))
    refused(bundle.path, r"features\.cmvn_mean: out of range, got 1 values, expected 80")


def test_a_missing_key_is_named(bundle: Bundle) -> None:
    reseal(bundle.path, lambda tree: tree.pop("family"))
    refused(bundle.path, "key family is missing")


def test_a_model_that_is_not_listed(bundle: Bundle) -> None:
    reseal(bundle.path, lambda tree: tree["files"].pop("model.onnx"))
    refused(bundle.path, r"model\.onnx is not among its files")


def test_tokens_that_do_not_fit_the_outputs(bundle: Bundle) -> None:
    reseal(bundle.path, lambda tree: tree.update(vocab_size=8))
    refused(bundle.path, r"tokens\.txt: 7 symbols, expected 8")


def test_a_blank_somewhere_else(bundle: Bundle) -> None:
    reseal(bundle.path, lambda tree: tree.update(blank_id=6))
    refused(bundle.path, r"tokens\.txt: blank has id 0, expected 6")


def test_writing_refuses_parts_that_do_not_fit(
    tmp_path: Path, manifest: BundleManifest, make_model: Callable[..., Path]
) -> None:
    two = Vocabulary(symbols=("<blank>", "A"))
    with pytest.raises(BadBundle, match="2 symbols, expected 7"):
        write_bundle(tmp_path / "b", manifest, model=make_model(), vocabulary=two)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".onnx"]


def test_extra_files_are_covered(
    tmp_path: Path,
    manifest: BundleManifest,
    make_model: Callable[..., Path],
    vocabulary: Vocabulary,
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("hello")
    written = write_bundle(
        tmp_path / "b", manifest, model=make_model(), vocabulary=vocabulary, extra=[readme]
    )
    assert "README.md" in written.manifest.files
    (written.path / "README.md").write_text("hellO")
    refused(written.path, r"README\.md: was changed")
    clash = tmp_path / "tokens.txt"
    clash.touch()
    with pytest.raises(BadBundle, match="has a file of this name already"):
        write_bundle(
            tmp_path / "c", manifest, model=make_model(), vocabulary=vocabulary, extra=[clash]
        )


def test_overwriting(tmp_path: Path, make_bundle: MakeBundle) -> None:
    first = make_bundle()
    with pytest.raises(OutputExists, match="folder is not empty"):
        make_bundle()
    second = make_bundle_forced(make_bundle, tmp_path, first, family="second")
    assert read_bundle(first.path).manifest.family == "second" == second.manifest.family
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["bundle"]


def make_bundle_forced(
    make_bundle: MakeBundle, tmp_path: Path, first: Bundle, *, family: str
) -> Bundle:
    other = make_bundle("other", family=family)
    written = write_bundle(
        first.path,
        other.manifest,
        model=other.model_path,
        vocabulary=other.tokens,
        force=True,
    )
    shutil.rmtree(tmp_path / "other")
    return written


def test_force_never_replaces_what_is_no_bundle(tmp_path: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    home, link = tmp_path / "home", tmp_path / "link"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    link.symlink_to(bundle.path)
    for target in (home, link, home / "thesis.tex"):
        with pytest.raises(OutputExists, match="only a bundle is replaced"):
            write_bundle(
                target,
                bundle.manifest,
                model=bundle.model_path,
                vocabulary=bundle.tokens,
                force=True,
            )
    assert (home / "thesis.tex").read_text() == "years of work"


def test_a_failed_replacement_keeps_the_old_bundle(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = make_bundle()
    real = os.replace

    def refuse_the_draft(source: Path, target: Path) -> None:
        if Path(source).is_dir() and Path(target) == bundle.path and "moved" in seen:
            seen.remove("moved")
            raise OSError(28, "No space left on device")
        if Path(source) == bundle.path:
            seen.add("moved")
        real(source, target)

    seen: set[str] = set()
    monkeypatch.setattr(bundle_module.os, "replace", refuse_the_draft)
    with pytest.raises(FileFailed, match="bundle: cannot be written, No space"):
        write_bundle(
            bundle.path,
            bundle.manifest,
            model=bundle.model_path,
            vocabulary=bundle.tokens,
            force=True,
        )
    assert read_bundle(bundle.path) == bundle
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["bundle"]


def test_a_second_seal_in_the_quality_record_is_refused(
    make_bundle: MakeBundle,
) -> None:
    with pytest.raises(BadBundle, match="bundle_sha256 is reserved"):
        make_bundle(quality={"bundle_sha256": "0" * 64})


def test_the_feature_spec_survives_exactly() -> None:
    mean = tuple(0.1 * i for i in range(80))
    spec = FeatureSpec(cmvn_mean=mean, cmvn_istd=tuple(1 / (i + 3) for i in range(80)))
    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_specification_names_every_key_and_its_example_is_valid(repo: Path) -> None:
    text = (repo / "docs/bundle.md").read_text(encoding="utf-8")
    example = json.loads(text.split("```json\n")[1].split("```")[0])
    manifest = BundleManifest.from_json(example)
    assert manifest.to_json() == example
    for key in (*example, *example["features"], *example["source"]):
        assert f"`{key}`" in text, key
    assert SHELL_CHECK in text
