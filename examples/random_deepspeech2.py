"""Write a PaddleSpeech DeepSpeech2 experiment with random weights, to try the tool on any shape.

    python examples/random_deepspeech2.py ds2-shape --layers 5 --width 1024 --direction bidirect

Sizes and speed do not depend on the weights; accuracy cannot be judged with them. The layout is
that of PaddleSpeech's examples/aishell/asr0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from asrcompress.checkpoints.weights import write_weights
from asrcompress.paddle_imports import import_deepspeech2, import_paddle, import_u2

# Mean and deviation of log-mel energies of int16 speech, roughly.
_MEAN, _DEVIATION = 13.0, 4.0


def write_experiment(
    folder: Path,
    *,
    layers: int = 5,
    width: int = 1024,
    direction: str = "forward",
    gru: bool = False,
    fc: tuple[int, ...] = (),
    symbols: list[str] | None = None,
    vocabulary: int = 4301,
    n_mels: int = 80,
    seed: int = 0,
) -> Path:
    """Write the experiment into `folder` and return it.

    Args:
        layers, width: recurrent layers and their hidden size.
        direction: ``forward`` (online) or ``bidirect`` (offline).
        fc: sizes of the dense layers behind the recurrent ones.
        symbols: output symbols without blank, unk and eos; None makes `vocabulary` of them.
        n_mels: width of the features.
    """
    if symbols is None:
        symbols = [chr(0x4E00 + index) for index in range(vocabulary - 3)]
    for name in ("conf", "data", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = ["<blank>", "<unk>", *symbols, "<eos>"]
    (folder / "data/vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stats = {
        "mean_stat": [_MEAN * 1000] * n_mels,
        "var_stat": [(_MEAN**2 + _DEVIATION**2) * 1000] * n_mels,
        "frame_num": 1000,
    }
    (folder / "data/mean_std.json").write_text(json.dumps(stats))
    fbank = {"type": "fbank_kaldi", "fs": 16000, "n_mels": n_mels, "n_shift": 160}
    cmvn = {"type": "cmvn_json", "cmvn_path": "data/mean_std.json"}
    steps = [{**fbank, "win_length": 400, "dither": 0.1}, cmvn]
    _write_yaml(folder / "conf/preprocess.yaml", {"process": steps})
    settings = {
        "num_conv_layers": 2,
        "num_rnn_layers": layers,
        "rnn_layer_size": width,
        "rnn_direction": direction,
        "num_fc_layers": len(fc),
        "fc_layers_size_list": list(fc) or [-1],
        "use_gru": gru,
        "blank_id": 0,
        "vocab_filepath": "data/vocab.txt",
        "preprocess_config": "conf/preprocess.yaml",
    }
    _write_yaml(folder / "conf/deepspeech2.yaml", settings)
    import_u2()  # PaddleSpeech patches Paddle while it is imported
    import_paddle().seed(seed)
    network = import_deepspeech2()(
        feat_size=n_mels,
        dict_size=len(lines),
        num_rnn_layers=layers,
        rnn_size=width,
        rnn_direction=direction,
        num_fc_layers=len(fc),
        fc_layers_size_list=list(fc),
        use_gru=gru,
    )
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_weights(folder / "checkpoints/best.pdparams", weights)
    return folder


def _write_yaml(path: Path, data: object) -> None:
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--direction", choices=("forward", "bidirect"), default="forward")
    parser.add_argument("--gru", action="store_true")
    parser.add_argument("--fc", type=int, nargs="*", default=())
    parser.add_argument("--vocabulary", type=int, default=4301)
    arguments = parser.parse_args()
    write_experiment(
        arguments.folder,
        layers=arguments.layers,
        width=arguments.width,
        direction=arguments.direction,
        gru=arguments.gru,
        fc=tuple(arguments.fc),
        vocabulary=arguments.vocabulary,
    )
    print(arguments.folder)


if __name__ == "__main__":
    main()
