"""The table ``[decoding]`` of a recipe; apart from the others, since a device needs only it."""

from __future__ import annotations

from dataclasses import dataclass

from asrcompress.setting import setting

DECODING_METHODS = ("greedy", "prefix_beam", "rescoring", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How log-probabilities become text; what the CER gate measures with, before and after."""

    method: str = setting(
        "greedy",
        "greedy and prefix_beam need CTC only; rescoring and attention ship the attention decoder",
        one_of=DECODING_METHODS,
        flag="decoding",
    )
    beam: int = setting(10, "hypotheses of every method but greedy", low=1, high=1000)
    ctc_weight: float = setting(
        0.5, "weight of CTC's score beside the decoder's (rescoring)", low=0.0, high=1000.0
    )
    reverse_weight: float = setting(
        0.0,
        "share of U2++'s right-to-left decoder in rescoring; 0: not used, not shipped",
        low=0.0,
        high=1.0,
    )

    @property
    def uses_decoder(self) -> bool:
        """Whether the attention decoder takes part."""
        return self.method in ("rescoring", "attention")

    @property
    def uses_reverse(self) -> bool:
        """Whether the right-to-left decoder takes part."""
        return self.method == "rescoring" and self.reverse_weight > 0


GREEDY = Decoding()
