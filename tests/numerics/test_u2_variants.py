"""Parts of U2 encoders, one by one: activations, unused layers, what PaddleSpeech cannot build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrcompress.errors import BadCheckpoint

pytest.importorskip("paddle", reason="needs the [compress] extra")
import onnx
import paddle

from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.checkpoints.checkpoint import read_checkpoint
from asrcompress.checkpoints.network import PaddleAcousticModel, build_network
from asrcompress.checkpoints.unused_layers import unused_layers
from asrcompress.compress.anatomy import dissect
from asrcompress.compress.families import attentions_of, layers_of
from asrcompress.export.families import export_utterances
from asrcompress.export.onnx_graph import save_graph
from asrcompress.runtime.session import OnnxAcousticModel

pytestmark = pytest.mark.paddle

# Every one that PaddleSpeech's get_activation knows and can run.
ACTIVATIONS = (
    "hardshrink", "hardswish", "hardtanh", "tanh", "relu", "relu6", "leakyrelu", "selu", "swish",
    "gelu", "elu",
)  # fmt: skip


def graph_of(network: Any) -> onnx.ModelProto:
    fold_batch_norm(network)
    return export_utterances(network, opset=17, max_frames=1600, n_mels=80)


def test_every_activation_is_exported(
    make_experiment: Any, features: list[np.ndarray], tmp_path: Path
) -> None:
    """One block for each activation."""
    from paddlespeech.s2t.modules.activation import get_activation

    make_experiment(
        tmp_path, blocks=len(ACTIVATIONS), encoder_conf={"macaron_style": False}, kernel=3
    )
    network = build_network(read_checkpoint(tmp_path))
    for layer, name in zip(network.encoder.encoders, ACTIVATIONS, strict=True):
        layer.feed_forward.activation = layer.conv_module.activation = get_activation(name)
    reference = PaddleAcousticModel(network).log_probs(features[:1])[0]
    signs = {e.name: e.input_unsigned for e in layers_of(network)}
    unsigned = {name for name, sign in signs.items() if sign and "encoders" in name}
    assert unsigned == {
        f"encoder.encoders.{ACTIVATIONS.index(name)}.{layer}"
        for name in ("relu", "relu6")
        for layer in ("feed_forward.w_2", "conv_module.pointwise_conv2")
    }
    save_graph(graph_of(network), tmp_path / "model.onnx")
    exported = OnnxAcousticModel(tmp_path / "model.onnx").log_probs(features[:1])[0]
    assert np.abs(reference - exported).max() < 1e-4


@pytest.mark.parametrize("encoder", ["transformer", "squeezeformer"])
def test_layers_called_unused_change_nothing(
    make_experiment: Any, features: list[np.ndarray], tmp_path: Path, encoder: str
) -> None:
    make_experiment(tmp_path, encoder=encoder, blocks=3, norm="layer_norm", kernel=3)
    network = build_network(read_checkpoint(tmp_path))
    unused = unused_layers(network)
    kind = {"transformer": "concat_linear", "squeezeformer": "conv_module"}[encoder]
    in_encoder = {name for name in unused if name.startswith("encoder.")}
    assert in_encoder == {f"encoder.encoders.{index}.{kind}" for index in range(3)}
    model = PaddleAcousticModel(network)
    before = model.log_probs(features[:1])[0]
    layers = dict(network.named_sublayers())
    for name in unused:
        for tensor in layers[name].parameters():
            tensor.set_value(paddle.ones_like(tensor))
    assert np.array_equal(before, model.log_probs(features[:1])[0])
    assert not {edges.name for edges in layers_of(network)} & set(unused)


def test_a_layer_that_is_used_twice_is_stored_once(make_experiment: Any, tmp_path: Path) -> None:
    make_experiment(
        tmp_path,
        encoder="squeezeformer",
        blocks=5,
        norm="layer_norm",
        kernel=3,
        encoder_conf={"reduce_idx": [1, 2], "recover_idx": [3, 4]},
    )
    graph = graph_of(build_network(read_checkpoint(tmp_path))).graph
    names = [item.name for item in graph.initializer]
    assert len(names) == len(set(names))
    users = [n for n in graph.node if "encoder.time_reduction_layer.dw_conv.weight" in n.input]
    assert len(users) == 2


def test_macs_of_plain_attention_by_hand(make_experiment: Any, tmp_path: Path) -> None:
    make_experiment(tmp_path, encoder="transformer", blocks=2, width=16, heads=2, feed_forward=32)
    checkpoint = read_checkpoint(tmp_path)
    anatomy = {block.name: block for block in dissect(checkpoint, seconds=2.0).blocks}
    frames = ((200 - 1) // 2 - 1) // 2
    by_hand = frames * (4 * 16 * 16 + 2 * 16 * 32) + 2 * frames * frames * 16
    assert anatomy["encoder.encoders.0"].macs == by_hand
    assert anatomy["encoder.encoders.0"].int8_macs == by_hand
    unused = anatomy["unused"]
    assert not unused.shipped
    assert unused.parameters >= 2 * (2 * 16 * 16 + 16)  # concat_linear of two blocks
    network = build_network(checkpoint)
    assert len(attentions_of(network)) == 2


@pytest.mark.parametrize(
    ("encoder_conf", "message"),
    [
        ({"pos_enc_layer_type": "no_pos"}, "PaddleSpeech cannot build this network"),
        ({"cnn_module_kernel": 4}, "PaddleSpeech cannot build this network"),
        ({"input_layer": "conv2d9"}, "PaddleSpeech cannot build this network"),
        ({"activation_type": "mish"}, "PaddleSpeech cannot build this network"),
        ({"input_layer": 4}, "PaddleSpeech cannot build this network"),
        ({"activation_type": "glu"}, "PaddleSpeech cannot run it"),
    ],
)
def test_what_paddlespeech_cannot_build_is_refused(
    make_experiment: Any, tmp_path: Path, encoder_conf: dict[str, Any], message: str
) -> None:
    import yaml

    make_experiment(tmp_path)
    path = tmp_path / "conf/conformer.yaml"
    written = yaml.safe_load(path.read_text())
    written["encoder_conf"] |= encoder_conf
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(BadCheckpoint, match=message):
        build_network(read_checkpoint(tmp_path))
