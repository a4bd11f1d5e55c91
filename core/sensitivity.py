"""How much each layer minds: what a measurement of sensitivity found, and what follows from it.

A probe changes one thing in the float network (a layer quantized, a part of a pruning group silent)
and compares the network with itself: KL says how far its frame posteriors moved, the CER whether
anybody would notice. KL orders layers that cost no character yet; the CER alone calls them equal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asrcompress import strict_json
from asrcompress.errors import BadRecipe, BadSensitivity

SCHEMA_VERSION = 1
QUANTIZE, PRUNE = "quantize", "prune"
EVERYTHING = "*"
"""Target of the probe that quantizes all layers together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One change to measure.

    Attributes:
        action: `QUANTIZE` or `PRUNE`.
        target: name of a layer or attention (or `EVERYTHING`), or of a pruning group.
        ratio: share of the group that is to be silent; 1 for `QUANTIZE`.
    """

    action: str
    target: str
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.action not in (QUANTIZE, PRUNE):
            raise BadRecipe(f"action: got {self.action!r}, expected {QUANTIZE} or {PRUNE}")
        if not 0.0 < self.ratio <= 1.0:
            raise BadRecipe(f"ratio: got {self.ratio}, expected above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe did.

    Attributes:
        share: of the target that was really changed: units are whole, so it may differ from the
            ratio that was asked for.
        kl: KL(float network || changed network) of the frame posteriors, nats per frame.
        edits: substitutions, deletions and insertions over all utterances.
        cer: `edits` per reference character.
    """

    probe: Probe
    share: float
    kl: float
    edits: int
    cer: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kl) and self.kl >= 0.0 and self.edits >= 0):
            raise BadRecipe(
                f"{self.probe.target}: got kl {self.kl} and {self.edits} edits, expected from 0"
            )
        if not 0.0 < self.share <= 1.0:
            raise BadRecipe(f"{self.probe.target}: share is {self.share}, expected above 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All probes of a checkpoint.

    Attributes:
        checkpoint: its name.
        checkpoint_sha256: of its weights.
        dataset_sha256: of the utterances that were heard, ids, spans and transcripts.
        frames: output frames, over which KL is averaged.
        edits, cer: of the float network.
        criterion: how pruning ranked the units of a group.
    """

    checkpoint: str
    checkpoint_sha256: str
    dataset_sha256: str
    utterances: int
    frames: int
    reference_chars: int
    edits: int
    cer: float
    criterion: str
    results: tuple[ProbeResult, ...]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BadRecipe(f"schema_version: got {self.schema_version}, expected {SCHEMA_VERSION}")
        if min(self.utterances, self.frames, self.reference_chars) < 1:
            raise BadRecipe("utterances, frames, reference_chars: expected at least 1 of each")
        rates: tuple[Sensitivity | ProbeResult, ...] = (self, *self.results)
        for item in rates:
            if not math.isclose(item.cer, item.edits / self.reference_chars, rel_tol=1e-9):
                raise BadRecipe(f"cer: {item.cer} contradicts {item.edits} edits, it was edited")
        probes = [item.probe for item in self.results]
        if len(set(probes)) != len(probes):
            raise BadRecipe("results: a probe stands twice")

    @property
    def layers(self) -> tuple[ProbeResult, ...]:
        """Of every layer quantized alone, in forward order."""
        return tuple(
            item
            for item in self.results
            if item.probe.action == QUANTIZE and item.probe.target != EVERYTHING
        )

    @property
    def together(self) -> ProbeResult | None:
        """Of all layers quantized together, where that was measured."""
        return next((item for item in self.results if item.probe.target == EVERYTHING), None)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Shares that were pruned, ascending."""
        return tuple(sorted({i.probe.ratio for i in self.results if i.probe.action == PRUNE}))

    def pruned(self, ratio: float) -> tuple[ProbeResult, ...]:
        """Of every group at one of `ratios`."""
        return tuple(
            item
            for item in self.results
            if item.probe.action == PRUNE and item.probe.ratio == ratio
        )

    def more_edits(self, result: ProbeResult) -> int:
        """Than the float network makes; negative where there are fewer."""
        return result.edits - self.edits

    def most_sensitive_layers(self) -> tuple[ProbeResult, ...]:
        """Layers by what quantizing them alone does to the posteriors, worst first.

        Edits decide between equals, such as the layers of an attention decoder, which no frame's
        posterior depends on.
        """
        return tuple(sorted(self.layers, key=lambda item: (-item.kl, -item.edits)))

    def most_sensitive_groups(self, ratio: float) -> tuple[ProbeResult, ...]:
        """Pruning groups by what silencing `ratio` of them does, worst first."""
        return tuple(sorted(self.pruned(ratio), key=lambda item: (-item.kl, -item.edits)))

    def curve(self, group: str) -> DamageCurve:
        """Damage of pruning a group, by the share that goes.

        Raises:
            BadSensitivity: the group was not probed.
        """
        points = [
            (item.share, item.kl)
            for item in self.results
            if item.probe.action == PRUNE and item.probe.target == group
        ]
        if not points:
            raise BadSensitivity(
                f"{group}: was not pruned in this measurement of {self.checkpoint}",
                hint="asrcompress sensitivity measures it",
            )
        return DamageCurve(points=lower_hull(points))


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageCurve:
    """Damage as a convex, piecewise linear function of the share that is pruned.

    Attributes:
        points: (share, nats per frame), ascending in both, the first one (0, 0).
    """

    points: tuple[tuple[float, float], ...]

    @property
    def most(self) -> float:
        """The largest share that was measured; nothing is known beyond."""
        return self.points[-1][0]

    def at(self, share: float) -> float:
        """Damage at a share between 0 and `most`, nats per frame."""
        for (left, low), (right, high) in itertools.pairwise(self.points):
            if share <= right:
                return low + (high - low) * (share - left) / (right - left)
        return self.points[-1][1]


def lower_hull(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The convex curve from (0, 0) that runs below measured damages and touches what it can.

    A measured curve has dents of chance; on a convex one, taking the cheapest step first is also
    best over all steps (Andrew's monotone chain, 1979, the lower half).

    Args:
        points: (share above 0, damage from 0), the largest share last kept as it is.
    """
    hull: list[tuple[float, float]] = [(0.0, 0.0)]
    for x, y in sorted(points):
        if x == hull[-1][0]:  # two ratios that came to the same number of units
            continue
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return tuple(hull)


def read_sensitivity(path: Path) -> Sensitivity:
    """A sensitivity.json.

    Raises:
        BadSensitivity: missing, not one, of another version, or edited so that it contradicts
            itself.
    """
    try:
        tree = strict_json.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSensitivity(
            f"{path}: cannot be read, {error.strerror}",
            hint="asrcompress sensitivity writes it into its run directory",
        ) from error
    except ValueError as error:
        raise BadSensitivity(f"{path}: is not JSON, {error}") from error
    return strict_json.from_json(Sensitivity, tree, item=str(path), error=BadSensitivity)


def check_subject(found: Sensitivity, checkpoint_sha256: str, *, item: str) -> None:
    """Refuse what was measured on other weights.

    Args:
        item: where it comes from, for the message.
    Raises:
        BadSensitivity: the digests differ.
    """
    if found.checkpoint_sha256 != checkpoint_sha256:
        raise BadSensitivity(
            f"{item}: was measured on weights {found.checkpoint_sha256[:12]} "
            f"({found.checkpoint}), expected {checkpoint_sha256[:12]}",
            hint="asrcompress sensitivity with this checkpoint",
        )
