"""Write a PaddleSpeech U2 experiment with random weights, to try the tool on any shape.

    python examples/random_experiment.py aishell-shape --blocks 12 --width 256 --vocabulary 4233
    python examples/random_experiment.py transformer-shape --encoder transformer

Sizes and speed do not depend on the weights; accuracy cannot be judged with them. The layout is
that of PaddleSpeech's examples/aishell/asr1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.weights import write_weights
from asrcompress.paddle_imports import import_paddle, import_u2

# Mean and deviation of log-mel energies of int16 speech, roughly.
_MEAN, _DEVIATION = 13.0, 4.0


def write_experiment(
    folder: Path,
    *,
    blocks: int = 12,
    width: int = 256,
    heads: int = 4,
    feed_forward: int = 2048,
    decoder_blocks: int = 6,
    kernel: int = 15,
    symbols: list[str] | None = None,
    vocabulary: int = 4233,
    norm: str = "batch_norm",
    dropout: float = 0.1,
    encoder: str = "conformer",
    decoder: str = "transformer",
    network_cmvn: bool = False,
    encoder_conf: dict[str, object] | None = None,
    seed: int = 0,
) -> Path:
    """Write the experiment into `folder` and return it.

    Args:
        symbols: output symbols without blank, unk and eos; None makes `vocabulary` of them.
        decoder: ``transformer``, or ``bitransformer`` as U2++ has it.
        norm: of the convolution module, ``batch_norm`` or ``layer_norm``.
        encoder: ``conformer``, ``transformer`` or ``squeezeformer``.
        network_cmvn: normalise inside the network (``cmvn_file``), not in the front end.
        encoder_conf: further settings of the encoder, such as causal and use_dynamic_chunk.
    """
    if symbols is None:
        symbols = [chr(0x4E00 + index) for index in range(vocabulary - 3)]
    for name in ("conf", "data", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = ["<blank>", "<unk>", *symbols, "<eos>"]
    (folder / "data/vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stats = {
        "mean_stat": [_MEAN * 1000] * 80,
        "var_stat": [(_MEAN**2 + _DEVIATION**2) * 1000] * 80,
        "frame_num": 1000,
    }
    (folder / "data/mean_std.json").write_text(json.dumps(stats))
    fbank = {"type": "fbank_kaldi", "fs": 16000, "n_mels": 80, "n_shift": 160, "win_length": 400}
    cmvn = {"type": "cmvn_json", "cmvn_path": "data/mean_std.json"}
    steps = [{**fbank, "dither": 0.1}, *([] if network_cmvn else [cmvn])]
    _write_yaml(folder / "conf/preprocess.yaml", {"process": steps})
    attention = {
        "attention_heads": heads,
        "linear_units": feed_forward,
        "dropout_rate": dropout,
        "positional_dropout_rate": dropout,
    }
    sizes = {"output_size": width, "num_blocks": blocks}
    convolution = {"cnn_module_kernel": kernel, "activation_type": "swish"}
    encoders: dict[str, dict[str, object]] = {
        "conformer": {
            **attention,
            **sizes,
            **convolution,
            "input_layer": "conv2d",
            "cnn_module_norm": norm,
            "pos_enc_layer_type": "rel_pos",
            "selfattention_layer_type": "rel_selfattn",
        },
        "transformer": {**attention, **sizes, "input_layer": "conv2d"},
        "squeezeformer": {
            **sizes,
            **convolution,
            "encoder_dim": width,
            "attention_heads": heads,
            "feed_forward_expansion_factor": feed_forward // width,
            "reduce_idx": 5 * blocks // 12,
            "recover_idx": 11 * blocks // 12,
            "cnn_norm_type": norm,
        },
    }
    settings = {
        "encoder": encoder,
        "encoder_conf": {**encoders[encoder], **(encoder_conf or {})},
        "decoder": decoder,
        "decoder_conf": {**attention, "num_blocks": decoder_blocks},
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "length_normalized_loss": False},
        "vocab_filepath": "data/vocab.txt",
        "preprocess_config": "conf/preprocess.yaml",
    }
    if network_cmvn:
        settings |= {"cmvn_file": "data/mean_std.json", "cmvn_file_type": "json"}
    if decoder == "bitransformer":
        settings["decoder_conf"]["r_num_blocks"] = decoder_blocks
        settings["model_conf"]["reverse_weight"] = 0.3
    _write_yaml(folder / "conf/conformer.yaml", settings)
    write_weights(folder / "checkpoints/best.pdparams", {"none": np.zeros(1)})
    _write_random_weights(folder, seed)
    return folder


def _write_random_weights(folder: Path, seed: int) -> None:
    network_class = import_u2()
    import_paddle().seed(seed)
    settings = dict(read_checkpoint(folder).network)
    if settings.get("cmvn_file"):
        settings["cmvn_file"] = str(folder / settings["cmvn_file"])
    network = network_class.from_config(settings)
    rng = np.random.default_rng(seed)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for name, value in weights.items():
        # Batch norms that are not the identity, as after training.
        if name.endswith("norm._mean"):
            weights[name] = rng.normal(0, 0.2, value.shape).astype(np.float32)
        elif name.endswith("norm._variance"):
            weights[name] = rng.uniform(0.5, 2.0, value.shape).astype(np.float32)
    write_weights(folder / "checkpoints/best.pdparams", weights)


def _write_yaml(path: Path, data: object) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--encoder", choices=("conformer", "transformer", "squeezeformer"), default="conformer"
    )
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=2048)
    parser.add_argument("--decoder-blocks", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4233)
    arguments = parser.parse_args()
    write_experiment(
        arguments.folder,
        encoder=arguments.encoder,
        blocks=arguments.blocks,
        width=arguments.width,
        feed_forward=arguments.feed_forward,
        decoder_blocks=arguments.decoder_blocks,
        vocabulary=arguments.vocabulary,
    )
    print(arguments.folder)


if __name__ == "__main__":
    main()
