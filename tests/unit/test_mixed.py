"""Mixed precision without a network: how counts are found, and why nothing can be shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asrcompress import mixed_text
from asrcompress.errors import BadRecipe, CerGateFailed, IntegerGateFailed
from asrcompress.manifests.manifest import Utterance
from asrcompress.mixed_precision import GateLook, MixedPrecision, MixedStep, fewest, growing
from asrcompress.pipeline.audition import Audition, search_set
from asrcompress.pipeline.quantize import Speech
from asrcompress.search_settings import Search


@pytest.mark.parametrize("most", [1, 2, 7, 8, 90])
def test_bisection_finds_the_fewest_with_few_tries(most: int) -> None:
    for needed in range(most + 2):
        tried: list[int] = []

        def passes(count: int, needed: int = needed, tried: list[int] = tried) -> bool:
            tried.append(count)
            return count >= needed

        found = fewest(most, passes)
        assert found == (needed if needed <= most else None)
        assert len(tried) == len(set(tried)) <= 2 + 2 * max(1, needed).bit_length()
        assert max(tried) <= most


def test_bisection_gives_up_where_more_would_be_of_no_use() -> None:
    tried = []

    def passes(count: int) -> bool:
        tried.append(count)
        return count >= 50

    assert fewest(90, passes, hopeless=lambda count: count >= 4) is None
    assert tried == [0, 1, 2, 4]


def test_the_gate_is_asked_about_growing_counts_up_to_all_there_are() -> None:
    assert list(growing(4, 30)) == [4, 5, 7, 11, 19, 30]
    assert list(growing(0, 2)) == [0, 1, 2]
    assert list(growing(3, 3)) == [3]


def step(kept_float: int, *, passed: bool, **other: Any) -> MixedStep:
    known: dict[str, Any] = {
        "run": f"ptq-{kept_float}", "utterances": 60, "reason": "it went up", "before_cer": 0.1,
        "after_cer": 0.2, "upper_bound": None, "integer_share": 0.9, "float_macs": 10,
        "float_bytes": 40, "model_bytes": 100, "seconds": 3.2,
    }  # fmt: skip
    return MixedStep(kept_float=kept_float, passed=passed, **{**known, **other})


def look(kept_float: int, *, passed: bool) -> GateLook:
    return GateLook(
        kept_float=kept_float, run=f"ptq-{kept_float}", passed=passed, reason="too high",
        before_cer=0.1, after_cer=0.2, upper_bound=0.15,
    )  # fmt: skip


def found(*steps: MixedStep, **other: Any) -> MixedPrecision:
    known: dict[str, Any] = {"order": ("a", "b", "c"), "utterances": 60}
    return MixedPrecision(steps=steps, **{**known, **other})


def test_a_choice_has_to_have_passed_both() -> None:
    steps = (step(0, passed=False), step(1, passed=True), step(2, passed=True))
    good = found(*steps, looks=(look(1, passed=False), look(2, passed=True)), chosen=2)
    assert good.kept == ("a", "b")
    assert good.best == steps[2]
    assert good.look == good.looks[1]
    for wrong in (0, 1, 3):
        with pytest.raises(BadRecipe, match="expected a step that passed, and its gate"):
            replace(good, chosen=wrong)
    with pytest.raises(BadRecipe, match="schema_version: got 1"):
        replace(good, schema_version=1)


def test_a_step_in_words() -> None:
    text = mixed_text.step(step(2, passed=True, upper_bound=0.0053, integer_share=0.973))
    assert text == (
        "CER 20.00% on 60 utterances of data.dev (increase up to +0.53): passed; "
        "97.3% on integers, 3 s"
    )
    assert "increase" not in mixed_text.step(step(2, passed=False))


def test_every_end_says_what_to_do() -> None:
    failing = step(0, passed=False)
    none, every = found(failing, step(1, passed=False)), found(failing, step(3, passed=False))
    costly = found(failing, step(2, passed=True, integer_share=0.5))
    refused = replace(costly, looks=(look(2, passed=False), look(3, passed=False)))
    ends: list[tuple[MixedPrecision, type[Exception], str, str]] = [
        (none, CerGateFailed, "with 1 of 3 layers in float, and more would", "--min-integer-share"),
        (every, CerGateFailed, "even with all 3 layers in float: it went up", "--dev-manifest"),
        (costly, IntegerGateFailed, "got 0.500, expected at least 0.800", "--min-integer-share"),
        (refused, CerGateFailed, "asked 2 times\n  2 layers in float: too high", "--gate-tries"),
    ]
    for end, kind, said, hint in ends:
        failure = mixed_text.failure(end, min_integer_share=0.8)
        assert type(failure) is kind
        assert said in str(failure) and hint in str(failure.hint)
    passed = replace(costly, looks=(look(2, passed=True),), chosen=2)
    assert mixed_text.failure(passed, min_integer_share=0.8) is None


def utterances(count: int) -> tuple[Utterance, ...]:
    return tuple(
        Utterance(utt=f"u{n}", audio=Path(f"{n}.wav"), text="开", duration_s=1.0, speaker="s")
        for n in range(count)
    )


def test_who_hears_candidates_is_never_given_the_gates_speech() -> None:
    speech = Speech(train=(), calibration=(), dev=utterances(30), gate=utterances(1))
    nothing: Any = SimpleNamespace()
    known: dict[str, Any] = {
        "checkpoint": nothing, "utterances": speech.dev, "before": nothing, "console": nothing
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="must not see the gate's utterances"):
        Audition(speech=speech, **known)
    Audition(speech=replace(speech, gate=()), **known)


def test_the_search_set_is_spread_and_shuffled_always_alike() -> None:
    dev = utterances(90)
    some = search_set(dev, Search(utterances=30))
    assert {item.utt for item in some} == {f"u{3 * n}" for n in range(30)}
    assert some == search_set(dev, Search(utterances=30)) != tuple(dev[::3])
    assert some != search_set(dev, Search(utterances=30, seed=1))
    with pytest.raises(BadRecipe, match=r"data\.dev: got 29 utterances to choose by"):
        search_set(dev[:29], Search())
