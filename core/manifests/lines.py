"""Lines of a manifest with their numbers, and the bad ones among them, gathered.

Every format reports through `BadLines`, so that a manifest with forty faults is mended in one
go and not in forty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asrcompress.errors import BadManifest

# No utterance needs a longer line; a file with one is audio or weights, not a list.
MAX_LINE_BYTES = 1 << 20
SHOWN_LINES = 20
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class BadLines:
    """Collects what is wrong with single lines, to be reported all at once.

    Args:
        item: what the lines belong to, first in the message: a path.
    """

    def __init__(self, item: str) -> None:
        self._item = item
        self._shown: list[str] = []
        self._hint = ""
        self.count = 0

    def add(self, where: str, error: BadManifest) -> None:
        """Note one fault; the first twenty are shown, the others counted."""
        self.count += 1
        if len(self._shown) < SHOWN_LINES:
            self._shown.append(f"  {where}: {error}")
        if not self._hint:
            self._hint = error.hint

    def raise_if_any(self) -> None:
        """Raise one `BadManifest` with every fault, or return when there was none."""
        if not self.count:
            return
        noun = "1 bad line" if self.count == 1 else f"{self.count} bad lines"
        rest = self.count - len(self._shown)
        more = [f"  ... and {rest} more"] if rest else []
        message = "\n".join([f"{self._item}: {noun}", *self._shown, *more])
        raise BadManifest(message, hint=self._hint)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Stream the lines that are not blank, stripped, counted from 1; a UTF-8 BOM is dropped.

    Raises:
        BadManifest: the file cannot be read, is UTF-16, or has a line of more than 1 MiB.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BadManifest(f"{path}: cannot be read: {error.strerror}") from error
    with stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                raw = _without_bom(raw, path)
            if len(raw) > MAX_LINE_BYTES:
                raise BadManifest(
                    f"{path}: line {number} is longer than {MAX_LINE_BYTES} bytes, "
                    "expected a text file with one utterance a line"
                )
            line = raw.strip()
            if line:
                yield number, line


def _without_bom(raw: bytes, path: Path) -> bytes:
    if raw.startswith(_UTF16_BOMS):
        raise BadManifest(
            f"{path}: wrong encoding, got UTF-16, expected UTF-8",
            hint=f"iconv -f UTF-16 -t UTF-8 '{path}' > mended && mv mended '{path}'",
        )
    return raw.removeprefix(_UTF8_BOM)


def decode(line: bytes) -> str:
    """One line as text.

    Raises:
        BadManifest: not UTF-8; Mandarin transcripts that fail here are mostly GB18030.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadManifest(
            f"wrong encoding, got byte 0x{line[error.start]:02x} at {error.start}, expected UTF-8",
            hint="if the transcripts are GBK or GB18030: iconv -f GB18030 -t UTF-8 old > new",
        ) from error


def seen(value: object, most: int = 80) -> str:
    """A value as messages show it: its `repr`, cut at `most` characters."""
    shown = repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
