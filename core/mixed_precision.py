"""Mixed precision: which layers stay in float so that the gate passes, and how that was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asrcompress.errors import BadRecipe

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStep:
    """One artifact that was made, measured and judged.

    Attributes:
        kept_float: how many layers it leaves in float, the most sensitive ones.
        run: name of its run directory.
        passed: its CER gates; the integer share is judged at the end.
        upper_bound: of the CER increase, as the gate takes it; None where there is no bound.
        float_macs: multiply-accumulates of the measured utterance in float kernels.
        float_bytes: float32 numbers in the graph.
        model_bytes: the whole artifact.
    """

    kept_float: int
    run: str
    passed: bool
    before_cer: float
    after_cer: float
    upper_bound: float | None
    integer_share: float
    float_macs: int
    float_bytes: int
    model_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPrecision:
    """A finished or an unfinished search.

    Attributes:
        order: layers that may stay in float, the most sensitive first.
        steps: as they were made.
        chosen: least number of layers in float with which the CER gates pass; None where none does,
            or the search is not finished.
    """

    order: tuple[str, ...]
    steps: tuple[MixedStep, ...]
    chosen: int | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.chosen is not None and self.best is None:
            raise BadRecipe(f"chosen: got {self.chosen}, expected a step that passed")

    @property
    def best(self) -> MixedStep | None:
        """The step that was chosen."""
        return next(
            (item for item in self.steps if item.passed and item.kept_float == self.chosen), None
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
