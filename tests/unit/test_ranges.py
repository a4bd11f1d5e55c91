"""Learned ranges: written, read back, and refused when they cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from asrcompress.errors import BadRun
from asrcompress.ranges import (
    ActivationRange,
    ProductRange,
    Ranges,
    WeightRange,
    read_ranges,
    write_ranges,
)

RANGES = Ranges(
    activations={
        "a:input": ActivationRange(absmax=12.7),
        "a:output": ActivationRange(absmax=2.55, unsigned=True),
    },
    weights=(
        WeightRange(parameter="a.weight", axis=1, absmax=(1.0, 0.0), input="a:input"),
        WeightRange(
            parameter="b.weight", axis=0, absmax=(3.0,), input="a:input", output="a:output"
        ),
    ),
    products=(ProductRange(right_parameter="a.weight", left="a:input", right="a:output"),),
)


def test_the_grid() -> None:
    signed, unsigned = RANGES.activations.values()
    assert (signed.scale, signed.zero_point) == (pytest.approx(0.1), 128)
    assert (unsigned.scale, unsigned.zero_point) == (pytest.approx(0.01), 0)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_ranges(tmp_path / "r.json", RANGES)
    assert read_ranges(tmp_path / "r.json") == RANGES
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_range_is_finite_and_positive(value: float) -> None:
    with pytest.raises(ValueError, match="is not finite and > 0"):
        ActivationRange(absmax=value)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_channel_is_finite_and_may_be_zero(value: float) -> None:
    with pytest.raises(ValueError, match=r"w: absmax is not finite"):
        WeightRange(parameter="w", axis=0, absmax=(1.0, value), input="i")


def test_every_edge_has_a_range() -> None:
    with pytest.raises(ValueError, match="edges without a range: b, c"):
        Ranges(
            activations={"a": ActivationRange(absmax=1.0)},
            weights=(WeightRange(parameter="w", axis=0, absmax=(1.0,), input="a", output="c"),),
            products=(ProductRange(right_parameter="w", left="b", right="a"),),
        )


def _without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != key}


GOOD = RANGES.to_json()
BAD: dict[str, Any] = {
    "list": [],
    "null": None,
    "no activations": _without(GOOD, "activations"),
    "no products": _without(GOOD, "products"),
    "activations are a list": {**GOOD, "activations": []},
    "an activation is a number": {**GOOD, "activations": {"a:input": 1.0}},
    "an activation in words": {**GOOD, "activations": {"a:input": {"absmax": "big"}}},
    "an activation of zero": {**GOOD, "activations": {"a:input": {"absmax": 0}}},
    "an unknown key": {**GOOD, "weights": [{**GOOD["weights"][0], "evil": 1}]},
    "a missing key": {**GOOD, "weights": [_without(GOOD["weights"][0], "axis")]},
    "channels are a number": {**GOOD, "weights": [{**GOOD["weights"][0], "absmax": 1.0}]},
    "an edge that is unknown": {**GOOD, "weights": [{**GOOD["weights"][0], "input": "nowhere"}]},
}


@pytest.mark.parametrize("name", BAD)
def test_other_data_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(BAD[name]))
    with pytest.raises(BadRun, match=r"r\.json: does not hold learned ranges"):
        read_ranges(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a": NaN}', '{"a": 1, "a": 2}', "\ufeff"]
)
def test_other_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadRun, match=r"r\.json: does not hold"):
        read_ranges(tmp_path / "r.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=r"r\.json: cannot be read, No such file"):
        read_ranges(tmp_path / "r.json")
