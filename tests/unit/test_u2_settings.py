"""Limits and refusals that follow from a U2 network's settings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asrcompress.checkpoints.u2_settings import check_u2, max_frames, min_frames
from asrcompress.errors import BadCheckpoint

SOURCE = Path("conf/model.yaml")


def settings(encoder: str = "conformer", **encoder_conf: Any) -> dict[str, Any]:
    return {"encoder": encoder, "encoder_conf": encoder_conf}


@pytest.mark.parametrize(
    ("input_layer", "fewest", "factor"),
    [("linear", 1, 1), ("conv2d", 7, 4), ("conv2d6", 11, 6), ("conv2d8", 15, 8)],
)
def test_frames_by_input_layer(input_layer: str, fewest: int, factor: int) -> None:
    of_layer = settings(input_layer=input_layer)
    assert min_frames(of_layer) == fewest
    assert max_frames(of_layer) == 4999 * factor


def test_frames_where_nothing_is_said() -> None:
    assert min_frames(settings()) == 7
    assert min_frames(settings("squeezeformer", input_layer="conv2d8")) == 7  # it knows no other
    assert min_frames({"rnn_layer_size": 1024}) == 7
    assert max_frames({"rnn_layer_size": 1024}) is None
    assert max_frames(settings("transformer", pos_enc_layer_type="no_pos")) is None
    assert max_frames(settings(max_len=1000)) == 999 * 4


@pytest.mark.parametrize(
    "accepted",
    [
        settings(activation_type="swish"),
        settings("transformer", normalize_before=False),
        settings("squeezeformer"),
        settings("squeezeformer", reduce_idx=None, recover_idx=None),
        settings("squeezeformer", num_blocks=4),  # neither index is a block
        settings("squeezeformer", num_blocks=6, reduce_idx=[1, 2], recover_idx=[3, 5]),
        settings("squeezeformer", time_reduction_layer_type="stream"),
        settings(
            "squeezeformer", reduce_idx=None, recover_idx=None, time_reduction_layer_type="2d"
        ),
    ],
)
def test_accepted(accepted: dict[str, Any]) -> None:
    check_u2(accepted, SOURCE)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (settings(activation_type="glu"), "activation_type is glu, which halves the width"),
        (
            settings("squeezeformer", recover_idx=None),
            r"halves the frame rate 1 times \(reduce_idx\) and recovers it 0 times",
        ),
        (
            settings("squeezeformer", num_blocks=11),
            r"halves the frame rate 1 times \(reduce_idx\) and recovers it 0 times",
        ),
        (
            settings("squeezeformer", time_reduction_layer_type="conv2d"),
            "time_reduction_layer_type is 'conv2d', expected conv1d or stream",
        ),
        (
            settings("squeezeformer", pos_enc_layer_type="abs_pos", output_size=512),
            "encoder_dim is 256 and output_size 512, expected the same",
        ),
    ],
)
def test_refused(refused: dict[str, Any], message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        check_u2(refused, SOURCE)
