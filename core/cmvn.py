"""Mean and variance of features over a training set, as PaddleSpeech stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrcompress import strict_json
from asrcompress.errors import BadCheckpoint
from asrcompress.files import reading


def read_cmvn(
    path: Path, *, width: int, variance_floor: float = 0.0
) -> tuple[list[float], list[float]]:
    """Mean and inverse standard deviation of a PaddleSpeech ``mean_std.json``.

    The file holds sums: mean_stat, var_stat (sum of squares) and frame_num; the standard
    deviation is floored at 1e-20 (paddlespeech/audio/transform/cmvn.py, GlobalCMVN).

    Args:
        width: features per frame.
        variance_floor: what PaddleSpeech up to 0.2 raised variances to, which rounding can make
            negative.
    Raises:
        BadCheckpoint: not such a file, or of another width.
    """
    expected = "expected JSON with mean_stat, var_stat and frame_num > 0"
    try:
        with reading(path, BadCheckpoint):
            stats = strict_json.parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCheckpoint(f"{path}: is not JSON, {error}") from error
    try:
        count = float(stats["frame_num"])
        sums = [np.asarray(stats[key], np.float64) for key in ("mean_stat", "var_stat")]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BadCheckpoint(f"{path}: is not CMVN statistics, {expected}") from error
    if not count > 0:
        raise BadCheckpoint(f"{path}: frame_num is {count}, {expected}")
    with np.errstate(all="ignore"):  # what is not finite is refused below
        mean = sums[0] / count
        variance = sums[1] / count - mean**2 if sums[0].shape == sums[1].shape else sums[1]
        if variance_floor > 0:
            variance = np.maximum(variance, variance_floor)
    if mean.shape != (width,) or variance.shape != (width,):
        raise BadCheckpoint(
            f"{path}: has {mean.size} means and {variance.size} variances, expected {width}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise BadCheckpoint(f"{path}: has a variance that is not positive and finite")
    istd = 1.0 / np.maximum(np.sqrt(variance), 1e-20)
    return mean.tolist(), istd.tolist()
