"""What [prune] takes, and what it refuses before anything is trained."""

from __future__ import annotations

import pytest

from asrcompress.errors import BadRecipe
from asrcompress.recipe import Prune


def test_one_budget_at_a_time() -> None:
    with pytest.raises(BadRecipe, match="got amount and max_rtf, expected one of them"):
        Prune(amount=0.3, max_rtf=0.01)
    assert Prune(max_gmacs=0.5).budget == "max_gmacs"
    assert Prune(amount=0.3).budget == ""


@pytest.mark.parametrize("structural", [{"amount": 0.3}, {"max_size_mb": 2.0}, {"drop_blocks": 1}])
def test_zeros_and_smaller_tensors_are_two_runs(structural: dict[str, float]) -> None:
    with pytest.raises(BadRecipe, match=r"expected prune\.sparsity alone"):
        Prune(pattern="unstructured", **structural)  # type: ignore[arg-type]


def test_two_of_four_are_a_half() -> None:
    with pytest.raises(BadRecipe, match=r"prune\.sparsity: got 0\.6, expected 0\.5 for 2:4"):
        Prune(pattern="2:4", sparsity=0.6)
    assert Prune(pattern="2:4").wanted


def test_nothing_is_wanted_by_default() -> None:
    assert not Prune().wanted
    assert Prune().structured
