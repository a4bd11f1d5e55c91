"""The families of PaddleSpeech, one tiny network each, that recognise a made-up language.

A random network has flat outputs: any two forms of it disagree somewhere, and nobody can say
whether that matters. So the body stays random, and the CTC head is fitted to it in closed form, on
a language whose symbols are spectra held for half a second. Such a network gets utterances right
that it was not fitted on, with a margin, as a trained one does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.bundles.manifest import BundleManifest
from asrcompress.checkpoints.checkpoint import Checkpoint, read_checkpoint

SYMBOLS = list("一二三四五六七八")
_SMALL = {"blocks": 2, "width": 32, "heads": 4, "feed_forward": 64, "kernel": 7}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A row of the table: which script of examples/ writes the experiment, and how.

    Attributes:
        options: of the script's ``write_experiment``.
        n_mels: width of the features.
    """

    script: str = "random_experiment"
    options: dict[str, Any] = field(default_factory=dict)
    n_mels: int = 80


def _deepspeech2(direction: str, *, gru: bool = False, fc: tuple[int, ...] = ()) -> Any:
    options = {"layers": 2, "width": 64, "direction": direction, "gru": gru, "fc": fc}
    return Family(script="random_deepspeech2", options=options)


def _u2(
    encoder: str = "conformer", encoder_conf: dict[str, Any] | None = None, **others: Any
) -> Any:
    options = {
        **_SMALL,
        "decoder_blocks": 1,
        "encoder": encoder,
        "encoder_conf": encoder_conf or {},
    }
    return Family(options={**options, **others})


FAMILIES = {
    "conformer": _u2(),
    "conformer, causal, layer norm, conv2d6, ReLU": _u2(
        encoder_conf={"causal": True, "input_layer": "conv2d6", "activation_type": "relu"},
        norm="layer_norm",
    ),
    "conformer, rotary positions, conv2d8, no macaron": _u2(
        encoder_conf={
            "pos_enc_layer_type": "rope_pos",
            "input_layer": "conv2d8",
            "macaron_style": False,
        }
    ),
    "conformer, absolute positions, post-norm, concat, linear, no convolution": _u2(
        encoder_conf={
            "pos_enc_layer_type": "abs_pos",
            "normalize_before": False,
            "concat_after": True,
            "input_layer": "linear",
            "use_cnn_module": False,
        }
    ),
    "conformer, static chunks, CMVN in the network": _u2(
        encoder_conf={"static_chunk_size": 4, "causal": True, "activation_type": "gelu"},
        network_cmvn=True,
    ),
    "conformer, dynamic chunks": _u2(
        encoder_conf={"use_dynamic_chunk": True, "causal": True, "use_dynamic_left_chunk": True},
        norm="layer_norm",
    ),
    "transformer": _u2("transformer"),
    "transformer, post-norm, concat, no positions, conv2d6": _u2(
        "transformer",
        {
            "normalize_before": False,
            "concat_after": True,
            "pos_enc_layer_type": "no_pos",
            "input_layer": "conv2d6",
        },
    ),
    "transformer, linear": _u2("transformer", {"input_layer": "linear"}),
    "squeezeformer": _u2("squeezeformer", norm="layer_norm", blocks=3),
    "squeezeformer, rotary positions, pre-norm, two reductions": _u2(
        "squeezeformer",
        {
            "reduce_idx": [1, 2],
            "recover_idx": [3, 4],
            "pos_enc_layer_type": "rope_pos",
            "time_reduction_layer_type": "stream",
            "dw_stride": True,
            "normalize_before": True,
            "adaptive_scale": False,
            "output_size": 24,
        },
        blocks=5,
    ),
    "deepspeech2, LSTM, forward": _deepspeech2("forward"),
    "deepspeech2, LSTM, bidirectional, dense": _deepspeech2("bidirect", fc=(160, 96)),
    "deepspeech2, GRU, forward, dense": _deepspeech2("forward", gru=True, fc=(160, 96)),
    "deepspeech2, GRU, bidirectional": _deepspeech2("bidirect", gru=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """Utterances of the made-up language.

    Attributes:
        features: float32 (frames, mels) each, about zero mean and unit deviation.
        labels: the symbol of each feature frame, 0 in pauses, which CTC's blank stands for.
    """

    features: list[np.ndarray]
    labels: list[np.ndarray]


def make_speech(seed: int, *, utterances: int, n_mels: int = 80) -> Speech:
    """Symbols of 0.4 to 0.6 s and pauses between some of them; the spectra are always the same."""
    spectra = np.random.default_rng(0).standard_normal((len(SYMBOLS) + 1, n_mels))
    rng = np.random.default_rng(seed)
    features, labels = [], []
    for _ in range(utterances):
        held: list[int] = []
        for symbol in rng.permutation(len(SYMBOLS))[:6]:
            held += [int(symbol) + 1] * int(rng.integers(40, 60))
            held += [0] * int(rng.choice([0, 40]))
        noise = 0.1 * rng.standard_normal((len(held), n_mels))
        features.append((spectra[held] + noise).astype(np.float32))
        # blank, unk, then the symbols, as in vocab.txt
        labels.append(np.array([1 + symbol if symbol else 0 for symbol in held]))
    return Speech(features=features, labels=labels)


class Case:
    """A family's network in all its forms, each made when it is first asked for."""

    def __init__(self, family: Family, write: Callable[..., Path], folder: Path) -> None:
        self._family, self._folder = family, folder
        write(folder, **family.options, symbols=SYMBOLS, seed=1)
        shift = (13.0, 4.0) if family.options.get("network_cmvn") else (0.0, 1.0)
        self.fitting = make_speech(1, utterances=8, n_mels=family.n_mels)
        self.speech = make_speech(2, utterances=6, n_mels=family.n_mels)
        for speech in (self.fitting, self.speech):
            speech.features[:] = [
                shift[1] * item + np.float32(shift[0]) for item in speech.features
            ]
        self.checkpoint = self._fitted(read_checkpoint(folder))

    @cached_property
    def network(self) -> Any:
        """PaddleSpeech's own network."""
        from asrcompress.checkpoints.network import build_network

        return build_network(self.checkpoint)

    @cached_property
    def evaluated(self) -> list[np.ndarray]:
        """What ``asrcompress evaluate`` computes of each utterance."""
        from asrcompress.checkpoints.network import PaddleAcousticModel

        return alone(PaddleAcousticModel(self.network), self.speech.features)

    @cached_property
    def graph(self) -> Any:
        """The exported FP32 graph."""
        from asrcompress.checkpoints.batch_norm import fold_batch_norm
        from asrcompress.checkpoints.network import build_network
        from asrcompress.export.families import export_utterances

        network = build_network(self.checkpoint)
        fold_batch_norm(network)
        return export_utterances(network, opset=17, max_frames=1600, n_mels=self._family.n_mels)

    @cached_property
    def fp32(self) -> Path:
        """Its file."""
        from asrcompress.export.onnx_graph import save_graph

        save_graph(self.graph, self._folder / "model.onnx")
        return self._folder / "model.onnx"

    @cached_property
    def calibrated(self) -> Any:
        """The network with fake quantization, calibrated on what the head was fitted to."""
        from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
        from asrcompress.compress.quantized_network import QuantizedNetwork
        from asrcompress.recipe import Quantization

        quantized = QuantizedNetwork(build_network(self.checkpoint), Quantization())
        alone(PaddleAcousticModel(quantized.network), self.fitting.features)
        quantized.finish_calibration()
        return quantized

    @cached_property
    def int8(self) -> Path:
        """The file of the INT8 graph; calibration changes no weight."""
        from asrcompress.export.int8 import quantize_graph
        from asrcompress.export.onnx_graph import save_graph

        path = self._folder / "model.int8.onnx"
        save_graph(quantize_graph(self.graph, self.calibrated.ranges()), path)
        return path

    @cached_property
    def manifest(self) -> BundleManifest:
        """What a bundle of it says."""
        from asrcompress.checkpoints.acoustic import subsampling_factor
        from asrcompress.export.onnx_bundle import describe

        return describe(
            self.fp32,
            self.checkpoint,
            precision="fp32",
            subsampling=subsampling_factor(self.network),
            max_frames=1600,
            integer_share=0.0,
            quality=None,
        )

    def frame_labels(self, index: int) -> np.ndarray:
        """The symbol in the middle of what each output frame of an utterance sees."""
        labels = self.speech.labels[index]
        return labels[_middles(self.network, len(self.evaluated[index]), len(labels))]

    def _fitted(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with a CTC head fitted by ridge regression of one symbol per frame."""
        import paddle

        from asrcompress.checkpoints.acoustic import encode, head_of
        from asrcompress.checkpoints.network import build_network
        from asrcompress.checkpoints.weights import read_weights, write_weights

        network = build_network(checkpoint)
        hidden, wanted = [], []
        with paddle.no_grad():
            for features, labels in zip(self.fitting.features, self.fitting.labels, strict=True):
                lengths = paddle.to_tensor([len(features)], dtype="int64")
                found = encode(network, paddle.to_tensor(features[None]), lengths)
                hidden.append(found.hidden.numpy()[0])
                wanted.append(labels[_middles(network, len(hidden[-1]), len(labels))])
        x = np.concatenate(hidden).astype(np.float64)
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        head = head_of(network)
        y = 20.0 * np.eye(head.weight.shape[1])[np.concatenate(wanted)]
        solved = np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ y).astype(np.float32)
        name = next(n for n, layer in network.named_sublayers() if layer is head)
        weights = dict(read_weights(checkpoint.weights_path))
        weights |= {f"{name}.weight": solved[:-1], f"{name}.bias": solved[-1]}
        write_weights(checkpoint.weights_path, weights)
        return read_checkpoint(self._folder)


def _middles(network: Any, outputs: int, frames: int) -> np.ndarray:
    """The feature frame in the middle of what each output frame's subsampling reads."""
    from asrcompress.checkpoints.acoustic import is_u2, subsampling_factor

    front = network.encoder.embed if is_u2(network) else network.encoder.conv
    middles = np.arange(outputs) * subsampling_factor(network) + front.right_context // 2
    return np.minimum(middles, frames - 1)


def alone(model: Any, features: list[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities of each utterance in a batch of one."""
    return [model.log_probs([item])[0] for item in features]


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(
    request: pytest.FixtureRequest, repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """One family after the other."""
    pytest.importorskip("paddle", reason="needs the [compress] extra")
    family = FAMILIES[request.param]
    spec = importlib.util.spec_from_file_location(
        family.script, repo / "examples" / f"{family.script}.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Case(family, module.write_experiment, tmp_path_factory.mktemp("family"))
