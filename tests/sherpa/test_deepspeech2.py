"""DeepSpeech2 with 161 mel bins in sherpa-onnx's wenet_ctc slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the [compress] extra")
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.console import Console
from asrcompress.pipeline.recognizer import from_checkpoint
from asrcompress.recipe import Recipe, Source
from asrcompress.sherpa.check import verify_in_sherpa
from asrcompress.sherpa.forms import reference_of
from asrcompress.sherpa.record import TOKENS, WENET
from asrcompress.sherpa.shipping import ship_sherpa
from asrcompress.tokens import Vocabulary

pytestmark = pytest.mark.paddle


def test_161_bins_are_heard(make_deepspeech2: Any, tmp_path: Path) -> None:
    """The slot's features in, and behind the front end the network as it was."""
    pytest.importorskip("sherpa_onnx", reason="needs the [sherpa] extra")
    checkpoint = make_deepspeech2(tmp_path / "checkpoint", n_mels=161)
    recipe = Recipe(checkpoint=Source(path=checkpoint))
    folder, record = ship_sherpa(
        checkpoint,
        recipe,
        tmp_path / "sherpa",
        precision="fp32",
        force=False,
        console=Console(quiet=True),
    )
    assert (record.slot, record.features.width) == (WENET, 161)
    assert "--feat-dim=161" in (folder / "README.md").read_text()
    assert any(record.models["fp32"].texts.values())
    found = verify_in_sherpa(folder, manifest=None, tolerance=0.0, console=Console(quiet=True))
    found.require_passed()
    vocabulary = Vocabulary.from_tokens_txt(folder / TOKENS)
    reference = reference_of(folder, record, "fp32", vocabulary, tmp_path)
    exact = from_checkpoint(read_checkpoint(checkpoint))
    samples = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    features = exact.fbank(samples)
    np.testing.assert_allclose(
        reference.model.log_probs([reference.fbank(samples)])[0],
        exact.model.log_probs([features])[0],
        atol=1e-3,
    )
