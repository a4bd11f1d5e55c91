"""A PaddleSpeech network prepared for quantization-aware training, and the ranges it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asrcompress.calibration.observers import make_observer
from asrcompress.checkpoints.batch_norm import fold_batch_norm
from asrcompress.compress.activations import LOWEST_INPUT, QuantedSwish
from asrcompress.compress.edges import AttentionEdges, LayerEdges, RecurrentEdges
from asrcompress.compress.families import attentions_of, layers_of, recurrent_of, swishes_of
from asrcompress.compress.layers import (
    AttentionQuanters,
    QuantedConv1D,
    QuantedConv2D,
    QuantedMultiHeadedAttention,
    QuantedRelPositionAttention,
    QuantedRotaryAttention,
)
from asrcompress.compress.quanters import ActivationQuanter, GivenQuanter, WeightQuanter
from asrcompress.compress.recurrent import QuantedGRU, QuantedLSTM
from asrcompress.errors import CalibrationFailed
from asrcompress.paddle_imports import import_paddle
from asrcompress.ranges import ProductRange, Ranges, RecurrentRange, WeightRange
from asrcompress.recipe import GREEDY, Decoding, Quantization
from asrcompress.targets import FULL_GRID

paddle = import_paddle()

from paddle.nn.quant.qat import QuantedLinear  # noqa: E402  (after h5py, see paddle_imports)
from paddle.quantization import QAT, QuantConfig  # noqa: E402
from paddlespeech.s2t.modules import align  # noqa: E402
from paddlespeech.s2t.modules.attention import (  # noqa: E402
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
    RoPERelPositionMultiHeadedAttention,
)

# Attention of PaddleSpeech -> its quantized form; exactly these classes, not their subclasses.
_ATTENTIONS = {
    RelPositionMultiHeadedAttention: QuantedRelPositionAttention,
    RoPERelPositionMultiHeadedAttention: QuantedRotaryAttention,
    MultiHeadedAttention: QuantedMultiHeadedAttention,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A quantized layer with what `Ranges` will say of it."""

    edges: LayerEdges
    quanter: WeightQuanter


class QuantizedNetwork:
    """PaddleSpeech's network with fake quantization in it; parameters keep their names.

    The network observes activations until `finish_calibration`, then quantizes. `network` is
    PaddleSpeech's own object and is used as such: ``network(speech, lengths, text, text_lengths)``
    gives the training loss. `swishes` are the edges in front of a Swish on integers.
    """

    def __init__(
        self,
        network: Any,
        settings: Quantization,
        decoding: Decoding = GREEDY,
        weight_top: int = FULL_GRID,
    ) -> None:
        """Fold batch norms and put the quanters in, in place.

        Args:
            network: PaddleSpeech's, as `asrcompress.checkpoints.network.build_network` makes it.
            decoding: whether the attention decoder is quantized too.
            weight_top: code of the largest weight of a channel, as the target wants it.
        Raises:
            BadRecipe: a skip pattern that matches nothing.
            BadCheckpoint: a layer without a quantized form.
        """
        self.network = network
        self._settings = settings
        self._plain_names = list(network.state_dict())
        fold_batch_norm(network)
        self.edges: dict[str, ActivationQuanter] = {}
        layers = layers_of(network, settings.skip, decoding)
        attentions = attentions_of(network, settings.skip, decoding)
        self._layers = [_Prepared(edges=e, quanter=WeightQuanter(e.axis)) for e in layers]
        self._products: list[ProductRange] = []
        network.train()  # paddle.quantization.QAT insists
        self._quantize_layers()
        self.swishes = self._quantize_swishes() if settings.integer_swish else ()
        self._quantize_attentions(attentions)
        recurrent = recurrent_of(network, settings.skip)
        self._recurrent = self._quantize_recurrent(recurrent)
        network.eval()
        self._check_counts(len(layers), len(attentions), len(recurrent))
        for quanter in self._weight_quanters():
            quanter.top = weight_top
        self._weight_top = weight_top

    def finish_calibration(self) -> None:
        """End observation: ranges are set, weights and activations are quantized from now on.

        Raises:
            CalibrationFailed: names every edge that was not observed or only saw zeros.
        """
        failures = []
        for quanter in self.edges.values():
            try:
                quanter.finish_calibration()
            except CalibrationFailed as error:
                failures.append(str(error))
        if failures:
            raise CalibrationFailed("; ".join(failures[:5]), hint="calibrate on more speech")
        self._enable_weights()

    def restore(self, ranges: Ranges) -> None:
        """Continue from the ranges of an earlier run instead of calibrating."""
        for name, quanter in self.edges.items():
            quanter.restore(ranges.activations[name].absmax)
        self._enable_weights()

    def ranges(self) -> Ranges:
        """The ranges as they are now."""
        return Ranges(
            activations={name: quanter.range() for name, quanter in self.edges.items()},
            weights=tuple(self._weight_range(item) for item in self._layers),
            products=tuple(self._products),
            recurrent=tuple(
                RecurrentRange(
                    parameter=name, absmax=tuple(map(float, quanter.absmax(weight).numpy()))
                )
                for name, weight, quanter in self._recurrent
            ),
            swishes=self.swishes,
            weight_top=self._weight_top,
        )

    def plain_state_dict(self) -> dict[str, Any]:
        """Weights under PaddleSpeech's names, as numpy arrays: a checkpoint that it can load."""
        state = self.network.state_dict()
        return {name: state[name].numpy() for name in self._plain_names}

    def _weight_quanters(self) -> list[WeightQuanter]:
        return [item.quanter for item in self._layers] + [item[2] for item in self._recurrent]

    def _enable_weights(self) -> None:
        for quanter in self._weight_quanters():
            quanter.enabled = True

    def _weight_range(self, item: _Prepared) -> WeightRange:
        absmax = item.quanter.absmax(item.edges.layer.weight).numpy()
        return WeightRange(
            parameter=f"{item.edges.name}.weight",
            axis=item.edges.axis,
            absmax=tuple(float(value) for value in absmax),
            input=item.edges.input,
            output=item.edges.output,
        )

    def _edge(
        self, name: str, *, unsigned: bool = False, lowest: float | None = None
    ) -> ActivationQuanter:
        """The quanter of an edge; layers that name the same edge get the same one."""
        if name not in self.edges:
            settings = self._settings
            observer = make_observer(
                settings.observer,
                edge=name,
                steps=255.0 if unsigned or lowest is not None else 127.0,
                percentile=settings.percentile,
                momentum=settings.momentum,
            )
            self.edges[name] = ActivationQuanter(
                name,
                observer,
                unsigned=unsigned,
                lowest=lowest,
                update=settings.range_update,
                momentum=settings.momentum,
            )
        return self.edges[name]

    def _quantize_layers(self) -> None:
        """Replace Linear, Conv1D and Conv2D through paddle.quantization's QAT."""
        config = QuantConfig(activation=None, weight=None)
        config.add_qat_layer_mapping(align.Linear, QuantedLinear)
        config.add_qat_layer_mapping(align.Conv1D, QuantedConv1D)
        config.add_qat_layer_mapping(align.Conv2D, QuantedConv2D)
        written = {item.edges.output for item in self._layers}
        for item in self._layers:
            edges = item.edges
            quanter = self._edge(
                edges.input, unsigned=edges.input_unsigned, lowest=edges.input_lowest
            )
            # A range that the previous layer's output already went through is not applied twice.
            already = edges.input in written
            config.add_layer_config(
                edges.layer,
                activation=None if already else GivenQuanter(quanter),
                weight=GivenQuanter(item.quanter),
            )
        QAT(config).quantize(self.network, inplace=True)
        self._attach_conv_edges()

    def _attach_conv_edges(self) -> None:
        """Give convolutions what QuantConfig has no place for: output range and bias scale."""
        placed = dict(self.network.named_sublayers())
        for item in self._layers:
            layer = placed[item.edges.name]
            if item.edges.output is not None:
                layer.source_quanter = self._edge(item.edges.input)
                layer.output_quanter = self._edge(
                    item.edges.output, unsigned=item.edges.output_unsigned
                )

    def _quantize_swishes(self) -> tuple[str, ...]:
        """Replace each Swish between two quantized layers; the edges that they read."""
        layers = {item.edges.name: item.edges for item in self._layers}
        replaced = []
        for item in swishes_of(self.network):
            if item.before in layers and item.after in layers:
                edge = f"{item.before}:output"
                quanter = self._edge(edge, lowest=LOWEST_INPUT)
                rounded = layers[item.before].output is not None
                item.owner.activation = QuantedSwish(quanter, rounded=rounded)
                replaced.append(edge)
        return tuple(replaced)

    def _quantize_attentions(self, attentions: list[AttentionEdges]) -> None:
        """Replace the attention layers, whose projections are quantized by now."""
        config = QuantConfig(activation=None, weight=None)
        for plain, quantized in _ATTENTIONS.items():
            config.add_qat_layer_mapping(plain, quantized)
        for item in attentions:
            config.add_layer_config(item.layer)
        QAT(config).quantize(self.network, inplace=True)
        placed = dict(self.network.named_sublayers())
        for item in attentions:
            products = placed[item.name].products
            operands = [operand for _, *pair in products for operand in pair]
            placed[item.name].quanters = AttentionQuanters(
                {
                    operand: self._edge(f"{item.name}:{operand}", unsigned=operand == "weights")
                    for operand in operands
                }
            )
            self._products += [
                ProductRange(
                    right_parameter=f"{item.name}.{parameter}.weight",
                    left=f"{item.name}:{left}",
                    right=f"{item.name}:{right}",
                )
                for parameter, left, right in products
            ]

    def _quantize_recurrent(
        self, recurrent: list[RecurrentEdges]
    ) -> list[tuple[str, Any, WeightQuanter]]:
        """Replace the recurrent layers; name, weight and quanter of all that they multiply by."""
        config = QuantConfig(activation=None, weight=None)
        config.add_qat_layer_mapping(paddle.nn.LSTM, QuantedLSTM)
        config.add_qat_layer_mapping(paddle.nn.GRU, QuantedGRU)
        for item in recurrent:
            config.add_layer_config(item.layer)
        QAT(config).quantize(self.network, inplace=True)
        placed = dict(self.network.named_sublayers())
        return [
            (f"{item.name}.{own}", weight, quanter)
            for item in recurrent
            for own, weight, quanter in placed[item.name].quantized_weights()
        ]

    def _check_counts(self, layers: int, attentions: int, recurrent: int) -> None:
        """paddle.quantization skips what it does not know without a word; we do not."""
        types = [type(layer) for layer in self.network.sublayers()]
        placed = sum(t in (QuantedLinear, QuantedConv1D, QuantedConv2D) for t in types)
        products = sum(types.count(quantized) for quantized in _ATTENTIONS.values())
        cells = sum(t in (QuantedLSTM, QuantedGRU) for t in types)
        if (placed, products, cells) != (layers, attentions, recurrent):
            raise RuntimeError(
                f"quantized {placed} layers, {products} attentions and {cells} recurrent layers, "
                f"expected {layers}, {attentions} and {recurrent}"
            )
