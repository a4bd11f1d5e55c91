"""PaddleSpeech's networks with widths that their constructors do not take.

PaddleSpeech's layers compute with whatever width their weights have; only the constructors want one
width for all blocks, or have it written in them. So the layers of a pruned network are made anew in
the right size, by the same classes, and the weights are loaded after that.
"""

from __future__ import annotations

from typing import Any

from asrcompress.checkpoints.shapes import BlockShape, EncoderShape, NetworkShape, RecurrentShape


def resize(network: Any, shape: NetworkShape) -> None:
    """Give the layers of a freshly built network the widths of `shape`, in place.

    The new layers hold initial values: weights are to be loaded afterwards.
    """
    if isinstance(shape, RecurrentShape):
        _resize_subsampling(network.encoder, shape)
    else:
        _resize_blocks(network, shape)


def _resize_subsampling(encoder: Any, shape: RecurrentShape) -> None:
    """The two convolutions of DeepSpeech2 and what reads them; the rest is in its settings."""
    first, _, second, _ = encoder.conv.conv
    one, two = shape.convolutions
    width = encoder.rnn[0].weight_ih_l0.shape[1] // second.weight.shape[0]
    unused = encoder.conv.out[0]
    encoder.conv.conv[0] = _strided(first, 1, one)
    encoder.conv.conv[2] = _strided(second, one, two)
    encoder.conv.out[0] = _linear(unused, two * width, unused.weight.shape[1])
    encoder.conv.output_dim = two * width
    encoder.rnn[0] = type(encoder.rnn[0])(
        input_size=two * width,
        hidden_size=encoder.rnn_size,
        num_layers=1,
        direction=encoder.rnn_direction,
    )


def _resize_blocks(network: Any, shape: EncoderShape) -> None:
    for layer, block in zip(network.encoder.encoders, shape.blocks, strict=True):
        _resize_attention(layer.self_attn, block.heads)
        _resize_feed_forward(layer.feed_forward, block.feed_forward)
        if block.macaron is not None:
            _resize_feed_forward(layer.feed_forward_macaron, block.macaron)
        if block.channels is not None:
            _resize_convolution(layer.conv_module, block)


def _resize_attention(attention: Any, heads: int) -> None:
    width = attention.linear_q.weight.shape[0]
    inner = heads * attention.d_k
    attention.h = heads
    for name in ("linear_q", "linear_k", "linear_v", "linear_pos"):
        if hasattr(attention, name):
            setattr(attention, name, _linear(getattr(attention, name), width, inner))
    attention.linear_out = _linear(attention.linear_out, inner, width)
    for name in ("pos_bias_u", "pos_bias_v"):
        if hasattr(attention, name):
            setattr(attention, name, attention.create_parameter([heads, attention.d_k]))


def _resize_feed_forward(layer: Any, units: int) -> None:
    width = layer.w_1.weight.shape[0]
    layer.w_1 = _linear(layer.w_1, width, units)
    layer.w_2 = _linear(layer.w_2, units, width)


def _resize_convolution(module: Any, block: BlockShape) -> None:
    channels = block.channels
    width = module.pointwise_conv1.weight.shape[1]
    kernel = module.depthwise_conv.weight.shape[2]
    module.pointwise_conv1 = _conv(module.pointwise_conv1, width, 2 * channels, kernel=1)  # type: ignore[operator]
    module.depthwise_conv = _conv(
        module.depthwise_conv, channels, channels, kernel=kernel, groups=channels
    )
    module.norm = type(module.norm)(channels)
    module.pointwise_conv2 = _conv(module.pointwise_conv2, channels, width, kernel=1)


def _linear(layer: Any, inputs: int, outputs: int) -> Any:
    return type(layer)(inputs, outputs, bias_attr=None if layer.bias is not None else False)


def _strided(layer: Any, inputs: int, outputs: int) -> Any:
    """A convolution of the subsampling: 3 x 3, every second position."""
    return type(layer)(inputs, outputs, layer.weight.shape[2], layer._stride)


def _conv(layer: Any, inputs: Any, outputs: Any, *, kernel: int, groups: Any = 1) -> Any:
    return type(layer)(
        inputs,
        outputs,
        kernel,
        padding=layer._padding,
        groups=groups,
        bias_attr=None if layer.bias is not None else False,
    )
