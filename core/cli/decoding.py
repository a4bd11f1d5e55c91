"""Options of decoding that commands share, and what they mean to the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from asrcompress.runtime.language_model import LanguageModel

METHOD = "greedy, prefix_beam, rescoring or attention"

DecodingMethod = Annotated[str, typer.Option("--decoding", help=METHOD)]
MaybeMethod = Annotated[
    str | None, typer.Option("--decoding", help=f"{METHOD} [greedy; prefix_beam where a beam is]")
]
Hotword = Annotated[
    list[str] | None,
    typer.Option(help="PHRASE or PHRASE:BOOST to listen for, 3.0 nats by default; may be repeated"),
]
HotwordsFile = Annotated[
    Path | None, typer.Option(help="file of hotwords, one PHRASE or PHRASE:BOOST a line")
]
Lm = Annotated[
    Path | None, typer.Option(help="n-gram language model: ARPA, plain or .gz, or KenLM's binary")
]
LmWeight = Annotated[float, typer.Option(min=0.0, help="weight of the language model")]
LmBonus = Annotated[float, typer.Option(help="bonus for each unit that the language model scores")]
LmUnit = Annotated[str, typer.Option(help="unit of the language model: token or word")]


def hotwords_of(given: Sequence[str] | None, file: Path | None) -> dict[str, float]:
    """Hotwords of the command line and of a file; the command line wins.

    Raises:
        BadRecipe: see `asrcompress.runtime.hotwords`.
    """
    from asrcompress.runtime.hotwords import parse_hotword, read_hotwords

    found = read_hotwords(file) if file is not None else {}
    return found | dict(parse_hotword(text) for text in given or [])


def language_model_of(
    path: Path | None, weight: float, bonus: float, unit: str
) -> LanguageModel | None:
    """The language model that is asked for; None without a path.

    Raises:
        BadRecipe: a unit that does not exist.
    """
    from asrcompress.runtime.language_model import LanguageModel

    if path is None:
        return None
    return LanguageModel(path=path, weight=weight, bonus=bonus, unit=unit)
