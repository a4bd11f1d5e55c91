"""Writing files that are either complete or absent, and the digests that prove it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asrcompress.errors import AsrCompressError, FileFailed, OutputExists

# Below the size from which glibc maps a piece of memory: once it has seen a larger one freed, it
# keeps pieces of that size, and loading a network of 36 MB peaks 14 MB higher.
_CHUNK_BYTES = 1 << 16
_CURES = {
    errno.ENOSPC: "free some space, then repeat the command",
    errno.EDQUOT: "free some space, then repeat the command",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Where the system refuses to write `path`, say so.

    Raises:
        FileFailed: in place of any `OSError` in the body.
    """
    try:
        yield
    except OSError as error:
        raise refused(error, str(path), "written") from error
    except FileFailed as error:  # of a temporary file that is to become a part of `path`
        if not isinstance(error.__cause__, OSError):
            raise
        raise refused(error.__cause__, str(path), "written") from error


@contextmanager
def reading(path: Path, kind: type[AsrCompressError] = FileFailed) -> Iterator[None]:
    """Where the system refuses to read `path`, raise `kind` in place of the `OSError`."""
    try:
        yield
    except OSError as error:
        raise refused(error, str(path), "read", kind) from error


def refused(
    error: OSError, path: str, verb: str, kind: type[AsrCompressError] = FileFailed
) -> AsrCompressError:
    """What the system said about `path`, which could not be "read" or "written"."""
    reason = error.strerror or type(error).__name__
    return kind(f"{path}: cannot be {verb}, {reason}", hint=_CURES.get(error.errno or 0, ""))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after whoever holds it now; it dies with the process."""
    with writing(path):
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) so that `path` never holds a part of it.

    The bytes go to a temporary name in the same folder, to disk, and are then renamed: a crash
    leaves the old file, or none. Opened by plain ``open``, so that the umask applies.

    Raises:
        FileFailed: the system refuses, for example because the disk is full.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = temporary_beside(path)
    with writing(path):
        try:
            with open(temporary, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that nothing uses yet; a rename to `path` is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def refuse_overwrite(path: Path, force: bool) -> None:
    """Refuse to write on anything but an empty folder, unless `force`.

    Raises:
        OutputExists: `path` is a file, a link, or a folder with something in it.
    """
    if force or not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    kind = "folder is not empty" if path.is_dir() else "file exists"
    raise OutputExists(f"{path}: {kind}", hint="choose another name, or overwrite with --force")


def sha256_file(path: Path) -> str:
    """SHA-256 of the file's bytes, 64 lower-case hexadecimal digits; memory use is constant.

    Raises:
        FileFailed: it cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
