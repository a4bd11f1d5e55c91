"""Files are complete or absent, and nothing of the user's is overwritten unasked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from asrcompress.errors import FileFailed, OutputExists
from asrcompress.files import refuse_overwrite, sha256_file, write_atomically


def test_writes_text_as_utf8_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", "你好\n")
    assert (tmp_path / "a.txt").read_bytes() == "你好\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileFailed, match="cannot be written, No space") as caught:
        write_atomically(path, b"new and longer")
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_honours_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_refuses_files_full_folders_and_dangling_links(tmp_path: Path) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("x")
    folder.mkdir()
    link.symlink_to("nowhere")
    refuse_overwrite(folder, force=False)
    refuse_overwrite(tmp_path / "new", force=False)
    (folder / "x").touch()
    for path in (file, folder, link):
        with pytest.raises(OutputExists, match=path.name) as caught:
            refuse_overwrite(path, force=False)
        assert "--force" in caught.value.hint
        refuse_overwrite(path, force=True)


def test_sha256_over_several_chunks(tmp_path: Path) -> None:
    content = os.urandom((1 << 21) + 17)
    (tmp_path / "big").write_bytes(content)
    assert sha256_file(tmp_path / "big") == hashlib.sha256(content).hexdigest()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFailed, match="gone: cannot be read, No such file"):
        sha256_file(tmp_path / "gone")
