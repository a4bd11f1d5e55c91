"""Mixed precision: which layers stay in float so that the gate passes, and how that was found.

How many was chosen on development speech; the gate's manifest appears in `GateLook` only. What
chose on a set cannot be judged on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asrcompress.errors import BadRecipe

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStep:
    """One artifact that was made, measured and heard on the search set.

    Attributes:
        kept_float: how many layers it leaves in float, the most sensitive ones.
        run: name of its run directory.
        utterances: it was heard on; fewer than the search set has where it was hopeless.
        passed: the gate's rule on the search set; the integer share is judged by itself.
        reason: that the rule gives, for a person.
        before_cer, after_cer: of the checkpoint and of the artifact on these utterances, in the
            form of use that is worse off: whole utterances or chunks.
        upper_bound: of the CER increase, as the gate takes it; None where there is no bound.
        integer_share: of the multiply-accumulates, in the graph that has least.
        float_macs: multiply-accumulates of the measured utterance in float kernels.
        float_bytes: float32 numbers in the graph.
        model_bytes: the whole artifact.
        seconds: that it took to make and hear; less where it was found made.
    """

    kept_float: int
    run: str
    utterances: int
    passed: bool
    reason: str
    before_cer: float
    after_cer: float
    upper_bound: float | None
    integer_share: float
    float_macs: int
    float_bytes: int
    model_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLook:
    """What the gate said of an artifact, on the gate's manifest and with every check of ``ptq``.

    Attributes:
        reason: for a person.
        before_cer, after_cer, upper_bound: as in `MixedStep`, on the gate's manifest.
    """

    kept_float: int
    run: str
    passed: bool
    reason: str
    before_cer: float
    after_cer: float
    upper_bound: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """A finished or an unfinished search.

    Attributes:
        order: layers that may stay in float, the most sensitive first.
        utterances: of the search set.
        steps: on the search set, as they were made.
        looks: at the gate's manifest, in the order in which the gate was asked.
        chosen: number of layers in float with which the gate passed; None where it refused, or was
            not asked, or the search is not finished.
    """

    order: tuple[str, ...]
    utterances: int
    steps: tuple[MixedStep, ...]
    looks: tuple[GateLook, ...] = ()
    chosen: int | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise BadRecipe(f"schema_version: got {self.schema_version}, expected {SCHEMA_VERSION}")
        if self.chosen is not None and (self.best is None or self.look is None):
            raise BadRecipe(f"chosen: got {self.chosen}, expected a step that passed, and its gate")

    @property
    def best(self) -> MixedStep | None:
        """The step that was chosen."""
        return next(
            (item for item in self.steps if item.passed and item.kept_float == self.chosen), None
        )

    @property
    def look(self) -> GateLook | None:
        """What the gate said of it."""
        return next(
            (item for item in self.looks if item.passed and item.kept_float == self.chosen), None
        )

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in float."""
        return self.order[: self.chosen or 0]


def fewest(
    most: int, passes: Callable[[int], bool], hopeless: Callable[[int], bool] = lambda count: False
) -> int | None:
    """The smallest count from 0 to `most` that passes, taking it that all larger ones pass too.

    Counts double until one passes, then the gap below it is halved: a set of k layers takes about
    2·log2(k) artifacts, however many layers there are. What is returned has passed, and one less
    has failed.

    Args:
        hopeless: of a count that failed: whether larger ones would be of no use if they passed.
    Returns:
        None where not even `most` passes, or what might pass would be of no use.
    """
    failed, count = -1, 0
    while not passes(count):
        if count >= most or hopeless(count):
            return None
        failed, count = count, min(most, max(1, 2 * count))
    while count - failed > 1:
        middle = (count + failed) // 2
        if passes(middle):
            count = middle
        else:
            failed = middle
    return count


def growing(count: int, most: int) -> Iterator[int]:
    """What the gate is asked about in turn: `count`, then 1, 2, 4, ... more than the last.

    Args:
        most: where it ends, with this count itself.
    """
    yield count
    more = 1
    while count < most:
        count = min(most, count + more)
        more *= 2
        yield count
