"""From what an encoder gave to a text: one door to every method of decoding."""

from __future__ import annotations

from collections.abc import Sequence

from asrcompress.attention_decoder import AttentionDecoder, EncodedUtterance
from asrcompress.errors import BadRecipe
from asrcompress.recipe import Decoding
from asrcompress.runtime.decode import (
    Hypothesis,
    PrefixScorer,
    greedy,
    greedy_score,
    prefix_beam,
)
from asrcompress.runtime.rescoring import attention_beam, rescore


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
