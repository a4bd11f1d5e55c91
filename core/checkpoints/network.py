"""PaddleSpeech's own network, rebuilt from a checkpoint, and its own forward pass.

The network is always PaddleSpeech's class with PaddleSpeech's forward: what is measured on a
checkpoint is measured by the code that trained it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from asrcompress.audio import to_int16
from asrcompress.checkpoints.acoustic import FULL_CONTEXT, Context, encode, log_probs_of
from asrcompress.checkpoints.attention_decoder import EncodedUtterance
from asrcompress.checkpoints.checkpoint import Checkpoint
from asrcompress.checkpoints.patterns import KEY as PATTERN
from asrcompress.checkpoints.resize import resize
from asrcompress.checkpoints.shapes import KEY as PRUNED
from asrcompress.checkpoints.shapes import pruned_shape
from asrcompress.checkpoints.u2_settings import check_u2
from asrcompress.checkpoints.weights import read_weights
from asrcompress.errors import BadCheckpoint
from asrcompress.paddle_imports import (
    import_deepspeech2,
    import_paddle,
    import_spectra,
    import_transformation,
    import_u2,
    use_device,
)

SUPPORTED_FAMILIES = ("u2-conformer", "u2-transformer", "u2-squeezeformer", "deepspeech2")

# What PaddleSpeech's constructors end in when a setting is missing, misspelt or impossible.
_BUILD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
)


def build_network(checkpoint: Checkpoint, *, device: str = "cpu") -> Any:
    """PaddleSpeech's network with the checkpoint's weights, in evaluation mode.

    Args:
        device: ``cpu`` or ``gpu:N``; sets Paddle's current device.
    Raises:
        BadCheckpoint: a family that is not supported, or weights that do not fit the settings.
        BadRecipe: a device that is not there.
    """
    if checkpoint.family not in SUPPORTED_FAMILIES:
        raise BadCheckpoint(
            f"{checkpoint.config_path}: family {checkpoint.family} is not supported, "
            f"expected one of {', '.join(SUPPORTED_FAMILIES)}"
        )
    # Before Paddle is imported, which takes seconds: most of what can be wrong is wrong here.
    weights = read_weights(checkpoint.weights_path)
    _check_sizes(checkpoint, weights)
    if checkpoint.family != "deepspeech2":
        check_u2(checkpoint.network, checkpoint.config_path)
    construct = _deepspeech2 if checkpoint.family == "deepspeech2" else _u2
    import_u2()  # before Paddle's device is chosen: PaddleSpeech patches Paddle on import
    use_device(device)
    try:
        network = construct(checkpoint)
    except _build_errors() as error:
        raise BadCheckpoint(
            f"{checkpoint.config_path}: PaddleSpeech cannot build this network, {error!r}",
            hint="take the configuration that this checkpoint was trained with",
        ) from error
    shape = pruned_shape(checkpoint.network, item=str(checkpoint.config_path))
    if shape is not None:
        resize(network, shape)
    load_weights(network, weights, source=str(checkpoint.weights_path))
    network.eval()
    return network


def _build_errors() -> tuple[type[Exception], ...]:
    """Those, and the class of the library by which PaddleSpeech checks types of settings."""
    import typeguard

    return (*_BUILD_ERRORS, getattr(typeguard, "TypeCheckError", TypeError))


def _u2(checkpoint: Checkpoint) -> Any:
    # U2Model pops keys out of the settings that it is given.
    settings = copy.deepcopy(dict(checkpoint.network))
    if settings.get("cmvn_file"):
        settings["cmvn_file"] = str(checkpoint.root / settings["cmvn_file"])
    for key in (PRUNED, PATTERN):
        settings.pop(key, None)
    return import_u2().from_config(settings)  # type: ignore[attr-defined]


def _deepspeech2(checkpoint: Checkpoint) -> Any:
    """As ``DeepSpeech2Model.from_config``, which wants the settings as attributes."""
    settings = checkpoint.network
    return import_deepspeech2()(
        feat_size=settings["input_dim"],
        dict_size=settings["output_dim"],
        num_conv_layers=settings["num_conv_layers"],
        num_rnn_layers=settings["num_rnn_layers"],
        rnn_size=settings["rnn_layer_size"],
        rnn_direction=settings["rnn_direction"],
        num_fc_layers=settings["num_fc_layers"],
        fc_layers_size_list=settings["fc_layers_size_list"],
        use_gru=settings["use_gru"],
        blank_id=settings.get("blank_id", 0),
    )


def _check_sizes(checkpoint: Checkpoint, weights: Mapping[str, np.ndarray]) -> None:
    """Refuse sizes that the weights do not have, before Paddle allocates memory for them."""
    sizes = {size for tensor in weights.values() for size in tensor.shape}
    for key in ("rnn_layer_size", "num_rnn_layers"):
        value = checkpoint.network.get(key)
        most = len(weights) if key.startswith("num") else max(sizes, default=0)
        if type(value) is int and value > most:
            raise BadCheckpoint(
                f"{checkpoint.config_path}: {key} is {value}, "
                f"expected at most {most} for {checkpoint.weights_path.name}"
            )
    for section in ("encoder_conf", "decoder_conf"):
        settings = checkpoint.network.get(section)
        for key in ("output_size", "linear_units", "num_blocks"):
            value = settings.get(key, 0) if isinstance(settings, dict) else 0
            most = len(weights) if key == "num_blocks" else max(sizes, default=0)
            if type(value) is int and value > most:
                raise BadCheckpoint(
                    f"{checkpoint.config_path}: {section}.{key} is {value}, "
                    f"expected at most {most} for {checkpoint.weights_path.name}"
                )


def load_weights(network: Any, weights: Mapping[str, np.ndarray], *, source: str) -> None:
    """Copy `weights` into `network`; names and shapes must agree exactly.

    Paddle saves each weight of an LSTM or GRU under two names, ``encoder.rnn.0.weight_ih_l0`` and
    ``encoder.rnn.0.0.cell.weight_ih``; one of them is enough.

    Raises:
        BadCheckpoint: names the tensors that are missing, unknown, of another shape, not finite, or
            different under their two names.
    """
    state = network.state_dict()
    weights, problems = _with_twins(state, weights)
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    dtypes = {name: tensor.numpy().dtype for name, tensor in state.items()}
    problems += [f"{name} is missing" for name in wanted if name not in weights]
    problems += [f"{name} is unknown to the network" for name in weights if name not in wanted]
    for name, shape in wanted.items():
        if name not in weights:
            continue
        if weights[name].shape != shape:
            problems.append(f"{name} has shape {list(weights[name].shape)}, expected {list(shape)}")
        elif (weights[name].dtype.kind == "f") != (dtypes[name].kind == "f"):
            problems.append(f"{name} has dtype {weights[name].dtype}, expected {dtypes[name]}")
        elif not np.isfinite(weights[name]).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if problems[8:] else ""
        )
        raise BadCheckpoint(
            f"{source}: does not fit the network, {shown}",
            hint="take the configuration and vocabulary that this checkpoint was trained with",
        )
    # Paddle refuses float16 and float64 where it wants float32.
    network.set_state_dict({name: weights[name].astype(dtypes[name]) for name in wanted})


def _with_twins(
    state: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """`weights` under all names that the network has for a tensor, and where these disagree."""
    found, problems = dict(weights), []
    for twin, first in _twins(state).items():
        given = next((name for name in (first, twin) if name in weights), None)
        if given is not None:
            found.setdefault(first, weights[given])
            found.setdefault(twin, found[first])
            if not np.array_equal(found[twin], found[first], equal_nan=True):
                problems.append(f"{twin} is not what {first} is, expected the same tensor")
    return found, problems


def twins_of(network: Any) -> dict[str, str]:
    """For every tensor with two names, such as an LSTM's weights: the second -> the first."""
    return _twins(network.state_dict())


def _twins(state: Mapping[str, Any]) -> dict[str, str]:
    first: dict[str, str] = {}
    twins = {}
    for name, tensor in state.items():
        if first.setdefault(tensor.name, name) != name:
            twins[name] = first[tensor.name]
    return twins


class PaddleFrontEnd:
    """PaddleSpeech's own features: the reference that the runtime's are compared with."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        reference = copy.deepcopy(dict(checkpoint.front_end))
        self._features: Callable[[np.ndarray], np.ndarray]
        if "process" in reference:
            transformation = import_transformation()(reference)
            self._features = lambda samples: transformation(to_int16(samples), train=False)
        else:
            self._features = import_spectra()(**reference)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of a recording, float32 (frames, width), CMVN applied.

        Args:
            samples: float32 (n_samples,) in [-1, 1); PaddleSpeech gets them as 16-bit integers, or
                as they are where it evens their level first.
        """
        return np.asarray(self._features(samples), np.float32)


class PaddleAcousticModel:
    """log-probabilities by PaddleSpeech's own encoder and CTC head."""

    def __init__(self, network: Any, *, context: Context = FULL_CONTEXT) -> None:
        self._network, self._context = network, context
        self._paddle = import_paddle()

    def log_probs(self, features: Sequence[np.ndarray]) -> list[np.ndarray]:
        """CTC log-probabilities of a batch.

        Args:
            features: arrays (n_frames, n_mels), float32; may differ in length.
        Returns:
            arrays (n_output_frames, vocabulary), float32, natural log, padding removed.
        """
        return [item.log_probs for item in self.encode(features)]

    def encode(self, features: Sequence[np.ndarray]) -> list[EncodedUtterance]:
        """As `log_probs`, with the encoder's hidden states."""
        paddle, network = self._paddle, self._network
        lengths = [len(item) for item in features]
        batch = np.zeros((len(features), max(lengths), features[0].shape[1]), np.float32)
        for row, item in zip(batch, features, strict=True):
            row[: len(item)] = item
        with paddle.no_grad():
            encoded = encode(
                network,
                paddle.to_tensor(batch),
                paddle.to_tensor(lengths, dtype="int64"),
                self._context,
            )
            log_probs = log_probs_of(network, encoded).numpy()
        hidden, kept = encoded.hidden.numpy(), encoded.lengths.numpy()
        return [
            EncodedUtterance(log_probs=row[:n], hidden=states[:n])
            for row, states, n in zip(log_probs, hidden, kept, strict=True)
        ]


class PaddleAttentionDecoder:
    """PaddleSpeech's own decoder, behind `asrcompress.checkpoints.attention_decoder`'s protocol.

    Attributes:
        sos, eos: as PaddleSpeech's constructor sets them.
    """

    def __init__(self, network: Any) -> None:
        self._network, self._paddle = network, import_paddle()
        self.sos, self.eos = int(network.sos), int(network.eos)
        self.reverse = hasattr(network.decoder, "right_decoder") and network.reverse_weight > 0

    def log_probs(
        self, hidden: np.ndarray, tokens: np.ndarray, reversed_tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `AttentionDecoder`; the padding of shorter texts is behind them, so no mask."""
        paddle, network = self._paddle, self._network
        both = reversed_tokens is not None
        with paddle.no_grad():
            memory = paddle.to_tensor(hidden).unsqueeze(0).expand([len(tokens), -1, -1])
            left, right, _ = network.decoder(
                memory,
                paddle.ones([len(tokens), 1, len(hidden)], dtype="bool"),
                paddle.to_tensor(tokens),
                paddle.full([len(tokens)], tokens.shape[1], dtype="int64"),
                paddle.to_tensor(reversed_tokens if both else tokens),
                1.0 if both else 0.0,
            )
            scores = [paddle.nn.functional.log_softmax(x, axis=-1).numpy() for x in (left, right)]
        return scores[0], scores[1] if both else None
