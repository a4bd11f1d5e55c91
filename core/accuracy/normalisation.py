"""Text as it is compared: what counts as the same transcript, and what counts as an error.

1. Unicode NFKC: full-width Latin letters, digits and punctuation become their plain forms,
   half-width kana full-width ones, ligatures letters. `。` stays, `，` becomes `,`.
2. Case is kept, unless `fold_case`.
3. Punctuation is kept, unless `drop_punctuation` (Unicode categories P*).
4. Spaces at the ends go, runs of white space become one space, and a space between two CJK
   characters goes (transcripts of Mandarin are often cut into words). A space between Latin words,
   or between a Latin word and a CJK character, is a character like any other.

A character is a Unicode code point after these steps. Both texts go through the same steps.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# Han with its extensions and compatibility forms, kana, bopomofo, CJK punctuation. Not Hangul:
# Korean separates words by spaces. Not U+3099 and U+309A, which combine with the letter before.
CJK = (
    "\u2e80-\u2fdf\u2ff0-\u3029\u3030-\u3098\u309b-\u312f\u31a0-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U000323af"
)
_SPACE_BETWEEN_CJK = re.compile(f"(?<=[{CJK}]) (?=[{CJK}])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """Which steps are taken; the defaults are what published CERs of Mandarin are measured on."""

    nfkc: bool = True
    fold_case: bool = False
    drop_punctuation: bool = False
    drop_cjk_spaces: bool = True


DEFAULT = Normalisation()


def normalise(text: str, options: Normalisation = DEFAULT) -> str:
    """`text` as it is compared; doing it twice changes nothing more."""
    if options.nfkc:
        text = unicodedata.normalize("NFKC", text)
    if options.fold_case:
        text = text.casefold()
    if options.drop_punctuation:
        text = "".join(char for char in text if not unicodedata.category(char).startswith("P"))
    if options.nfkc and (options.fold_case or options.drop_punctuation):
        text = unicodedata.normalize("NFKC", text)  # both can leave what NFKC composes
    text = " ".join(text.split())
    return _SPACE_BETWEEN_CJK.sub("", text) if options.drop_cjk_spaces else text
