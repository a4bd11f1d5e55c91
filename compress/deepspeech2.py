"""Which tensors of a DeepSpeech2 network are quantized, and which layers share one.

Convolutions and Linear layers have static ranges, as in U2. Between them are the recurrent layers,
whose inputs and states are quantized as they come, with no edge to name: see
`asrcompress.compress.recurrent`.
"""

from __future__ import annotations

from typing import Any

from asrcompress.compress.edges import LayerEdges, RecurrentEdges

_FIRST, _SECOND = "encoder.conv.conv.0", "encoder.conv.conv.2"


def layers_of(network: Any) -> list[LayerEdges]:
    """Every layer of `network` with static ranges, in forward order.

    ``encoder.conv.out`` is saved in every checkpoint but takes no part in the forward pass.
    """
    convolutions = network.encoder.conv.conv
    found = [
        LayerEdges(
            name=_FIRST,
            layer=convolutions[0],
            axis=0,
            input=f"{_FIRST}:input",
            output=f"{_FIRST}:output",
            output_unsigned=True,
        ),
        LayerEdges(
            name=_SECOND,
            layer=convolutions[2],
            axis=0,
            input=f"{_FIRST}:output",
            input_unsigned=True,
            output=f"{_SECOND}:output",
            output_unsigned=True,
        ),
    ]
    dense = [
        (f"encoder.fc_layers_list.{index}", layer)
        for index, layer in enumerate(network.encoder.fc_layers_list)
    ]
    dense.append(("decoder.ctc_lo", network.decoder.ctc_lo))
    for position, (name, layer) in enumerate(dense):
        # The first reads a layer norm; every other one the ReLU behind its predecessor.
        found.append(
            LayerEdges(
                name=name,
                layer=layer,
                axis=1,
                input=f"{name}:input",
                input_unsigned=position > 0,
            )
        )
    return found


def recurrent_of(network: Any) -> list[RecurrentEdges]:
    """Every LSTM or GRU of `network`, in forward order."""
    return [
        RecurrentEdges(name=f"encoder.rnn.{index}", layer=layer)
        for index, layer in enumerate(network.encoder.rnn)
    ]
