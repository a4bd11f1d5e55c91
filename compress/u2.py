"""Which tensors of a U2 encoder are quantized, and which layers share one.

One rule per place of the network; `layers_of` applies them to every layer. Two layers that read the
same tensor name the same edge, and a convolution names its output where the next layer reads it.
"""

from __future__ import annotations

import re
from typing import Any

from asrcompress.checkpoints.unused_layers import belongs_to, unused_layers
from asrcompress.compress.edges import AttentionEdges, LayerEdges, SwishEdges
from asrcompress.paddle_imports import import_paddle

paddle = import_paddle()

# Sub-networks that are shipped; the attention decoder only takes part in the training loss.
_SHIPPED = ("encoder.", "ctc.")
_SUBSAMPLING = re.compile(r"encoder\.embed\.(conv\.\d+|pw_conv|dw_conv)")
# The first layer behind the convolutions that reads their output as it is. A Squeezeformer scales
# it before, so its input_proj has an edge of its own.
_BEHIND_SUBSAMPLING = ("encoder.embed.out.0", "encoder.embed.linear")
_NOT_NEGATIVE = (paddle.nn.ReLU, paddle.nn.ReLU6)
_SWISH = (paddle.nn.Swish, paddle.nn.Silu)
SWISH_LOWEST = -0.2784645  # of x · sigmoid(x), at x = -1.2784645


def layers_of(network: Any) -> list[LayerEdges]:
    """Every layer of `network` to quantize, in forward order."""
    sublayers = dict(network.named_sublayers())
    unused = unused_layers(network)
    found: list[LayerEdges] = []
    source: str | None = None  # what the last convolution of the subsampling wrote
    for name, layer in sublayers.items():
        if not name.startswith(_SHIPPED) or belongs_to(name, unused):
            continue
        if isinstance(layer, paddle.nn.Conv2D) and _SUBSAMPLING.fullmatch(name):
            found.append(_subsampling(name, layer, source))
            source = found[-1].output
        elif source is not None and name in _BEHIND_SUBSAMPLING:
            found.append(
                LayerEdges(name=name, layer=layer, axis=1, input=source, input_unsigned=True)
            )
        elif isinstance(layer, paddle.nn.Linear | paddle.nn.Conv1D):
            found.append(_edges(name, layer, sublayers))
    return found


def attentions_of(network: Any) -> list[AttentionEdges]:
    """Every attention layer whose products are quantized."""
    return [
        AttentionEdges(name=name, layer=layer)
        for name, layer in network.named_sublayers()
        if re.fullmatch(r"encoder\.encoders\.\d+\.self_attn", name)
    ]


def swishes_of(network: Any) -> list[SwishEdges]:
    """Every Swish between two layers of the encoder, nothing else in between."""
    found = []
    for name, layer in network.named_sublayers():
        if not name.startswith("encoder.") or not isinstance(
            getattr(layer, "activation", None), _SWISH
        ):
            continue
        if hasattr(layer, "w_1"):
            pair = ("w_1", "w_2")
        elif hasattr(layer, "depthwise_conv") and not layer.use_layer_norm:
            pair = ("depthwise_conv", "pointwise_conv2")
        else:
            continue
        before, after = (f"{name}.{own}" for own in pair)
        found.append(SwishEdges(owner=layer, before=before, after=after))
    return found


def _subsampling(name: str, layer: Any, source: str | None) -> LayerEdges:
    """A convolution of the subsampling: a ReLU follows each, and the next one reads that."""
    return LayerEdges(
        name=name,
        layer=layer,
        axis=0,
        input=source or f"{name}:input",
        input_unsigned=source is not None,
        output=f"{name}:output",
        output_unsigned=True,
    )


def _edges(name: str, layer: Any, sublayers: dict[str, Any]) -> LayerEdges:
    owner, _, own = name.rpartition(".")
    axis = 1 if isinstance(layer, paddle.nn.Linear) else 0
    edge, unsigned, lowest, output = f"{name}:input", False, None, None
    if own in ("linear_q", "linear_k", "linear_v"):
        edge = f"{owner}:input"
    elif own == "linear_pos":
        edge = "encoder.embed.pos_enc:table"
    elif own in ("depthwise_conv", "dw_conv"):
        output = f"{name}:output"
    elif name == "encoder.time_reduction_layer.pw_conv":
        edge = f"{owner}.dw_conv:output"
    elif own in ("w_2", "pointwise_conv2"):
        unsigned = isinstance(sublayers[owner].activation, _NOT_NEGATIVE)
        lowest = SWISH_LOWEST if isinstance(sublayers[owner].activation, _SWISH) else None
    elif name == "encoder.embed.input_proj.0":
        unsigned = True  # ReLU, times a positive number
    # Pointwise convolutions are exported as matrix products, whose outputs stay float.
    return LayerEdges(
        name=name,
        layer=layer,
        axis=axis,
        input=edge,
        input_unsigned=unsigned,
        input_lowest=lowest,
        output=output,
    )
