"""From what an encoder gave to a text: one door to every method of decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from asrcompress.bundles.bundle import Bundle, DecoderModel
from asrcompress.checkpoints.attention_decoder import AttentionDecoder, EncodedUtterance
from asrcompress.decoding import Decoding
from asrcompress.errors import BadRecipe
from asrcompress.runtime.decode import (
    GreedySearch,
    Hypothesis,
    PrefixBeam,
    PrefixScorer,
    greedy,
    greedy_score,
    prefix_beam,
)
from asrcompress.runtime.rescoring import attention_beam, rescore
from asrcompress.setting import check_settings
from asrcompress.tokens import Vocabulary

if TYPE_CHECKING:  # imported where they are asked for: most programs decode greedily
    from asrcompress.runtime.language_model import LanguageModel


class Decoder:
    """A method of decoding with all that it needs.

    Attributes:
        settings: the method and its numbers.
    """

    def __init__(
        self,
        settings: Decoding,
        *,
        blank: int,
        attention: AttentionDecoder | None = None,
        scorers: Sequence[PrefixScorer] = (),
    ) -> None:
        """Check that method and parts go together.

        Args:
            blank: id of CTC's blank.
            attention: for the methods ``rescoring`` and ``attention``.
            scorers: language model and hotwords, for ``prefix_beam`` and ``rescoring``.
        Raises:
            BadRecipe: they do not.
        """
        method = settings.method
        if settings.uses_decoder and attention is None:
            raise BadRecipe(
                f"decoding {method}: there is no attention decoder here, expected one",
                hint="asrcompress qat --decoding rescoring ships one with the bundle",
            )
        if settings.uses_reverse and attention is not None and not attention.reverse:
            raise BadRecipe(
                f"reverse_weight: got {settings.reverse_weight}, "
                "expected 0 for a decoder that reads left to right only"
            )
        if scorers and method not in ("prefix_beam", "rescoring"):
            raise BadRecipe(
                f"decoding {method}: takes neither hotwords nor a language model",
                hint="--decoding prefix_beam, or rescoring",
            )
        self.settings, self._blank = settings, blank
        self._attention, self._scorers = attention, tuple(scorers)

    @property
    def needs_hidden(self) -> bool:
        """Whether the encoder's hidden states are read."""
        return self.settings.uses_decoder

    def open_search(self, vocab_size: int) -> GreedySearch | PrefixBeam:
        """A search to be fed as an utterance is heard.

        It finds what `decode` does, but where an attention decoder judges: that needs the end, and
        until then the greedy text has to do.
        """
        if self.settings.method != "prefix_beam":
            return GreedySearch(self._blank)
        return PrefixBeam(
            self.settings.beam, self._blank, vocab_size=vocab_size, scorers=self._scorers
        )

    def decode(self, utterance: EncodedUtterance) -> Hypothesis:
        """The best text."""
        return self.best(utterance)[0]

    def best(self, utterance: EncodedUtterance) -> list[Hypothesis]:
        """The best texts, the very best first; greedy decoding has one, a search `beam` at most."""
        settings, log_probs = self.settings, utterance.log_probs
        if settings.method == "greedy":
            ids = tuple(greedy(log_probs, self._blank))
            return [Hypothesis(tokens=ids, score=greedy_score(log_probs))]
        if settings.method == "attention":
            assert self._attention is not None and utterance.hidden is not None
            return attention_beam(utterance.hidden, self._attention, beam=settings.beam)
        found = prefix_beam(log_probs, settings.beam, self._blank, scorers=self._scorers)
        if settings.method == "prefix_beam":
            return found
        assert self._attention is not None and utterance.hidden is not None
        return rescore(
            found,
            utterance.hidden,
            self._attention,
            ctc_weight=settings.ctc_weight,
            reverse_weight=settings.reverse_weight,
        )


def choose_decoding(
    shipped: DecoderModel | None,
    *,
    method: str | None = None,
    beam: int | None = None,
    ctc_weight: float | None = None,
    reverse_weight: float | None = None,
    searching: bool = False,
) -> Decoding:
    """Settings with every gap filled: by what the bundle was judged with, else by the defaults.

    Args:
        shipped: the bundle's attention decoder.
        method: None is greedy, or prefix_beam where there is something to search for.
        searching: there are hotwords or a language model.
    Raises:
        BadRecipe: a value out of range.
    """
    if method is None:
        method = "prefix_beam" if searching or (beam or 1) > 1 else "greedy"
    judged = Decoding()
    if shipped is not None:
        judged = Decoding(
            method=shipped.method,
            beam=shipped.beam,
            ctc_weight=shipped.ctc_weight,
            reverse_weight=shipped.reverse_weight,
        )
    return check_settings(
        "decoding",
        Decoding(
            method=method,
            beam=judged.beam if beam is None else beam,
            ctc_weight=judged.ctc_weight if ctc_weight is None else ctc_weight,
            reverse_weight=judged.reverse_weight if reverse_weight is None else reverse_weight,
        ),
    )


def open_decoder(
    bundle: Bundle,
    settings: Decoding,
    *,
    scorers: Sequence[PrefixScorer] = (),
    threads: int = 1,
) -> Decoder:
    """A decoder for a bundle; its attention decoder is loaded where the method needs it.

    Raises:
        BadBundle: the graph cannot be loaded, or is not what the manifest says.
        BadRecipe: the bundle cannot do what is asked.
    """
    shipped, attention = bundle.manifest.decoder, None
    if settings.uses_decoder and shipped is not None:
        from asrcompress.runtime.onnx_decoder import OnnxAttentionDecoder

        path = bundle.path / shipped.model
        attention = OnnxAttentionDecoder(path, shipped, threads=threads)
    return Decoder(settings, blank=bundle.manifest.blank_id, attention=attention, scorers=scorers)


def open_scorers(
    vocabulary: Vocabulary,
    hotwords: Mapping[str, float] | None,
    language_model: LanguageModel | None,
) -> list[PrefixScorer]:
    """What is asked for, ready for a network with these outputs.

    Raises:
        BadRecipe, BadLanguageModel: see `Hotwords` and `LanguageModel`.
    """
    scorers: list[PrefixScorer] = []
    if hotwords:
        from asrcompress.runtime.hotwords import Hotwords

        scorers.append(Hotwords(hotwords, vocabulary))
    if language_model is not None:
        scorers.append(language_model.fuse(vocabulary))
    return scorers
